"""The one EXIF tag that changes how a picture looks."""

import struct

ORIENTATION = 0x0112
SHORT = 3


def orientation(block: bytes) -> int:
    """EXIF orientation 1 to 8 from a TIFF block, with or without the leading `Exif\\0\\0`; 1 when absent or broken.

    Pillow's own reader is not asked: it copies the value of every tag (older ones without bound, so that 65,535 tags
    that point at the same 20 MB took a terabyte) and warns. Only the first directory's 12-byte entries are read here.
    """
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for index in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", block, start + 2 + 12 * index)
            if tag == ORIENTATION:
                return value if kind == SHORT and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
