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
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples a pixel of each colour type."""
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, and the steps to the next, of each pass of an interlaced picture."""
_STEP = 1 << 20
WANTED = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"tEXt"})
MAX_TEXT_BYTES = 1 << 20
MAX_KEPT_CHUNKS = 10_000
"""More IDAT chunks than this are joined, for Pillow is slow with them."""


def accepts(data: bytes) -> bool:
    """Whether the content is PNG."""
    return data.startswith(SIGNATURE)


def inspect(data: bytes) -> Header:
    """Width, height, depth; `plain` has the palette, the transparency, short plain texts and the pixels."""
    chunks, end = _walk(data)
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise unsupported("a PNG that does not begin with its header")
    width, height, depth, *_, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    found = dict(reversed(chunks))
    if b"IDAT" not in found:
        raise truncated("a PNG without pixel data")
    return Header(
        kind="PNG",
        width=width,
        height=height,
        depth=depth,
        plain=_plain(data, chunks, end),
        elusive=bool(interlaced),
        animated=_frames(found.get(b"acTL", b"")) > 1,
        orientation=orientation(found.get(b"eXIf", b"")),
    )


def lacks_rows(plain: bytes) -> bool:
    """Whether the pixel data unpacks to fewer bytes than the rows need, which Pillow leaves black and does not tell.

    Unpacks everything once more, a megabyte at a time; so it is asked only of pictures whose last pixel is blank.
    """
    chunks, _ = _walk(plain)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    bits = depth * SAMPLES.get(colour, 1)
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for left, top, right, down in passes:
        columns, rows = -((left - width) // right), -((top - height) // down)
        expected += rows * ((columns * bits + 7) // 8 + 1) if columns > 0 and rows > 0 else 0
    stream, got = zlib.decompressobj(), 0
    for name, body in chunks:
        packed = body if name == b"IDAT" else b""
        while packed and not stream.eof and got < expected:
            got += len(stream.decompress(packed, _STEP))
            packed = stream.unconsumed_tail
    return got < expected


def _plain(data: bytes, chunks: list[tuple[bytes, bytes]], end: int) -> bytes:
    """The file itself when it has nothing but what is wanted; else made again from that, with one IDAT."""
    text_bytes = sum(len(body) for name, body in chunks if name == b"tEXt")
    wanted = WANTED if text_bytes <= MAX_TEXT_BYTES else WANTED - {b"tEXt"}
    if len(chunks) <= MAX_KEPT_CHUNKS and wanted.issuperset(name for name, _ in chunks):
        return data
    pixels = b"".join(body for name, body in chunks if name == b"IDAT")
    before = [_chunk(name, body) for name, body in chunks if name in wanted and name != b"IDAT"]
    return b"".join([SIGNATURE, *before[:MAX_KEPT_CHUNKS], _chunk(b"IDAT", pixels), _chunk(b"IEND", b""), data[end:]])


def _walk(data: bytes) -> tuple[list[tuple[bytes, bytes]], int]:
    """(name, body) of every chunk before IEND, and where IEND ends; raises BadImage when one is cut off or damaged."""
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
            return chunks, end
        chunks.append((name, body))
        position = end
    raise too_much_work(f"a PNG of more than {MAX_CHUNKS:,} parts")


def _frames(animation: bytes) -> int:
    return int.from_bytes(animation[:4], "big") if len(animation) == 8 else 1


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), name) + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))
