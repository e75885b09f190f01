"""PNG: the chunks are walked and their checksums checked, for Pillow skips both.

Pillow 13 does not check the CRC of IDAT chunks and does not ask for IEND. https://www.w3.org/TR/png-3/ has the format.
"""

import struct
import zlib

from worker.images.exif import orientation
from worker.images.header import Header, too_much_work, truncated, unsupported

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000
"""20 MB in the 8 kB chunks that encoders write are 2,500; each costs Python about a microsecond."""


def accepts(data: bytes) -> bool:
    """Whether the content is PNG."""
    return data.startswith(SIGNATURE)


def inspect(data: bytes) -> Header:
    """Width, height, depth; `plain` has one IDAT, the palette and the transparency, and nothing else."""
    chunks = _walk(data)
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise unsupported("a PNG that does not begin with its header")
    width, height, depth = struct.unpack_from(">IIB", chunks[0][1])
    found: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    for name, body in chunks:
        if name == b"IDAT":
            pixels.append(body)
        else:
            found.setdefault(name, body)
    if not pixels:
        raise truncated("a PNG without pixel data")
    parts = [_chunk(b"IHDR", found[b"IHDR"])]
    parts += [_chunk(name, found[name]) for name in (b"PLTE", b"tRNS") if name in found]
    parts += [_chunk(b"IDAT", b"".join(pixels)), _chunk(b"IEND", b"")]
    return Header(
        kind="PNG",
        width=width,
        height=height,
        depth=depth,
        plain=SIGNATURE + b"".join(parts),
        animated=_frames(found.get(b"acTL", b"")) > 1,
        orientation=orientation(found.get(b"eXIf", b"")),
    )


def _walk(data: bytes) -> list[tuple[bytes, bytes]]:
    """(name, body) of every chunk up to IEND; raises BadImage when one is cut off or its checksum is wrong."""
    chunks: list[tuple[bytes, bytes]] = []
    position = len(SIGNATURE)
    while len(chunks) < MAX_CHUNKS:
        if position + 12 > len(data):
            raise truncated("the PNG ends before its end marker (IEND)")
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise truncated("the PNG ends in the middle of a part")
        body = data[position + 8 : end - 4]
        if zlib.crc32(body, zlib.crc32(name)) != int.from_bytes(data[end - 4 : end], "big"):
            raise truncated("a checksum (CRC) in the PNG is wrong: the file is damaged")
        if name == b"IEND":
            return chunks
        chunks.append((name, body))
        position = end
    raise too_much_work(f"a PNG of more than {MAX_CHUNKS:,} parts")


def _frames(animation: bytes) -> int:
    return int.from_bytes(animation[:4], "big") if len(animation) == 8 else 1


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), name) + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))
