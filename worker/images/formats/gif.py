"""GIF: the blocks are walked to the trailer, and the canvas must hold every frame.

Pillow joins comment blocks one by one, so that a 20 MB comment takes minutes: it is not shown long ones.
https://www.w3.org/Graphics/GIF/spec-gif89a.txt has the format.
"""

import struct

from worker.images.header import Header, truncated

IMAGE, EXTENSION, TRAILER, GRAPHIC_CONTROL = 0x2C, 0x21, 0x3B, 0xF9
MAX_EXTENSION_BYTES = 1 << 16


def accepts(data: bytes) -> bool:
    """Whether the content is GIF."""
    return data.startswith((b"GIF87a", b"GIF89a"))


def inspect(data: bytes) -> Header:
    """The canvas, grown to hold every frame; `plain` is the file, or the first frame alone behind long extensions."""
    if len(data) < 13:
        raise truncated("the GIF ends in its header")
    width, height, packed = struct.unpack_from("<HHB", data, 6)
    head_end = position = 13 + _table_bytes(packed)
    frames, control, plain = 0, b"", b""
    while True:
        block = _byte(data, position)
        if block == TRAILER:
            break
        if block == EXTENSION:
            end = _skip_blocks(data, position + 2)
            if _byte(data, position + 1) == GRAPHIC_CONTROL and not frames:
                control = data[position:end]
        elif block == IMAGE:
            end, right, bottom = _frame(data, position)
            width, height, frames = max(width, right), max(height, bottom), frames + 1
            if not plain:
                long = position - head_end > MAX_EXTENSION_BYTES
                plain = data[:head_end] + control + data[position:end] + b"\x3b" if long else data
        else:
            end = position + 1  # Browsers and Pillow skip stray bytes between blocks as well.
        position = end
    if not frames:
        raise truncated("a GIF without a frame")
    return Header(kind="GIF", width=width, height=height, plain=plain, animated=frames > 1)


def _frame(data: bytes, position: int) -> tuple[int, int, int]:
    """(where it ends, its right edge, its bottom edge) of the frame that begins at `position`."""
    if position + 11 > len(data):
        raise truncated("the GIF ends in a frame's header")
    left, top, width, height, packed = struct.unpack_from("<HHHHB", data, position + 1)
    blocks = position + 10 + _table_bytes(packed) + 1
    return _skip_blocks(data, blocks), left + width, top + height


def _skip_blocks(data: bytes, position: int) -> int:
    """The end of a chain of blocks, each with its length in front, that ends with a block of length 0."""
    while True:
        length = _byte(data, position)
        position += 1 + length
        if length == 0:
            return position


def _byte(data: bytes, position: int) -> int:
    if position >= len(data):
        raise truncated("the GIF ends before its trailer")
    return data[position]


def _table_bytes(packed: int) -> int:
    return 3 << ((packed & 7) + 1) if packed & 0x80 else 0
