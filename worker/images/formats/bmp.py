"""BMP: size and length from the header."""

import struct

from worker.images.header import Header, too_much_work, truncated

HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
"""Lengths that the second header may have; two letters alone (`BM`) would also accept a text that begins so."""
RAW, RLE8, RLE4, BITFIELDS, ALPHABITFIELDS = 0, 1, 2, 3, 6
MAX_RUN_BYTES = 4_000_000
"""Pillow unpacks runs in Python: 0.4 s a megabyte. Runs are for drawings, which are far smaller."""


def accepts(data: bytes) -> bool:
    """Whether the content is BMP."""
    if data[:2] != b"BM":
        return False
    return len(data) < 18 or int.from_bytes(data[14:18], "little") in HEADERS


def inspect(data: bytes) -> Header:
    """Width and height; raises BadImage when rows that are stored as they are do not all fit into the file."""
    if len(data) < 26:
        raise truncated("the BMP ends in its header")
    offset, head = struct.unpack_from("<4xI", data, 6)[0], int.from_bytes(data[14:18], "little")
    if head < 40:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = RAW
    else:
        if len(data) < 34:
            raise truncated("the BMP ends in its header")
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)
    row = (width * bits + 31) // 32 * 4
    if compression in (RAW, BITFIELDS, ALPHABITFIELDS) and offset + row * height > len(data) and width * height > 0:
        _refuse_unless_huge(width, height)
    if compression in (RLE8, RLE4) and len(data) - offset > MAX_RUN_BYTES:
        raise too_much_work(f"a BMP with over {MAX_RUN_BYTES:,} bytes of runs (RLE)")
    return Header(kind="BMP", width=width, height=height, plain=data)


def _refuse_unless_huge(width: int, height: int) -> None:
    # A header alone that claims gigapixels is better told that it is too large, which the caller does.
    if width * height < 1 << 28:
        raise truncated("the BMP is shorter than its header says")
