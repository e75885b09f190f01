"""WebP: the canvas is read before libwebp is asked, for it allocates the canvas when it opens a file.

https://developers.google.com/speed/webp/docs/riff_container has the format.
"""

import struct

from worker.images.exif import orientation
from worker.images.header import Header, too_much_work, truncated, unsupported

MAX_CHUNKS = 100_000


def accepts(data: bytes) -> bool:
    """Whether the content is WebP."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def inspect(data: bytes) -> Header:
    """The canvas, the number of frames and the orientation; `plain` is the file itself."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise truncated("the WebP is shorter than it says")
    first = data[12:16]
    body = data[20:50]
    if first == b"VP8X":
        width, height = _extended(body)
    elif first == b"VP8 ":
        width, height = _lossy(body)
    elif first == b"VP8L":
        width, height = _lossless(body)
    else:
        raise unsupported("a WebP of an unknown kind")
    frames, exif = _walk(data, end) if first == b"VP8X" else (1, b"")
    return Header(
        kind="WEBP", width=width, height=height, plain=data, animated=frames > 1, orientation=orientation(exif)
    )


def _extended(body: bytes) -> tuple[int, int]:
    if len(body) < 10:
        raise truncated("the WebP ends in its header")
    return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1


def _lossy(body: bytes) -> tuple[int, int]:
    if len(body) < 10 or body[3:6] != b"\x9d\x01\x2a":
        raise truncated("the WebP's picture header is cut off or damaged")
    width, height = struct.unpack_from("<HH", body, 6)
    return width & 0x3FFF, height & 0x3FFF


def _lossless(body: bytes) -> tuple[int, int]:
    if len(body) < 5 or body[0] != 0x2F:
        raise truncated("the WebP's picture header is cut off or damaged")
    bits = int.from_bytes(body[1:5], "little")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _walk(data: bytes, end: int) -> tuple[int, bytes]:
    """(number of frames, EXIF block) of an extended WebP."""
    frames, exif, position = 0, b"", 12
    for _ in range(MAX_CHUNKS):
        if position + 8 > end:
            return frames, exif
        name, length = struct.unpack_from("<4sI", data, position)
        if name == b"ANMF":
            frames += 1
        elif name == b"EXIF" and not exif:
            exif = data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
    raise too_much_work(f"a WebP of more than {MAX_CHUNKS:,} parts")
