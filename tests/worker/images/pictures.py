"""Real pictures and real attacks, made by Pillow or byte by byte; used by the tests beside it."""

import io
import struct
import zlib
from typing import Any

from PIL import Image

from audit.errors import BadImage
from worker.images.decode import Decoded, decode
from worker.images.limits import ImageLimits

LIMITS = ImageLimits()
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flag(width: int = 96, height: int = 64) -> Image.Image:
    """Four plain colours, one a quarter: no orientation of it equals another, and JPEG keeps it well."""
    image = Image.new("RGB", (width, height), (200, 30, 30))
    image.paste((30, 180, 40), (width // 2, 0, width, height // 2))
    image.paste((40, 50, 200), (0, height // 2, width // 2, height))
    image.paste((240, 240, 60), (width // 2, height // 2, width, height))
    return image


def noise(width: int = 97, height: int = 61) -> Image.Image:
    """A picture whose every part takes bytes, so that a cut is felt wherever it falls."""
    bands = [Image.effect_noise((width, height), sigma) for sigma in (40, 60, 80)]
    return Image.merge("RGB", bands)


def animation(kind: str) -> bytes:
    first = flag()
    return encoded(first, kind, save_all=True, append_images=[first.rotate(90), first.rotate(180)])


def try_decode(data: bytes, name: str | None = None, limits: ImageLimits = LIMITS) -> Decoded | str:
    """The picture, or the code of its failure."""
    try:
        return decode(data, limits=limits, name=name)
    except BadImage as error:
        return error.code


def close(one: Image.Image, other: Image.Image, tolerance: int = 24) -> bool:
    """Whether two pictures look alike at 8x8: edges blur under JPEG, areas do not."""
    small = [image.convert("RGB").resize((8, 8), Image.Resampling.BOX).tobytes() for image in (one, other)]
    return one.size == other.size and max(abs(a - b) for a, b in zip(*small, strict=True)) <= tolerance


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), name) + body + struct.pack(">I", zlib.crc32(name + body))


def png_with(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """The PNG with more chunks before its pixels."""
    place = data.index(b"IDAT") - 4
    return data[:place] + b"".join(png_chunk(name, body) for name, body in chunks) + data[place:]


def png_of(header: bytes, pixels: bytes, *chunks: tuple[bytes, bytes], cut: int = 0) -> bytes:
    """A PNG from its 13-byte header and its unpacked rows, less the last `cut` bytes of its packed ones."""
    packed = zlib.compress(pixels)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", packed[: len(packed) - cut]), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in parts)


def exif(orientation: int, order: str = "<") -> bytes:
    """The smallest EXIF block with an orientation."""
    mark = b"II" if order == "<" else b"MM"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return mark + struct.pack(order + "HIH", 42, 8, 1) + entry + bytes(4)


def webp_canvas(width: int, height: int) -> bytes:
    """A WebP that claims a canvas and holds a tiny picture."""
    small = encoded(flag(16, 16), "WEBP", quality=1)[12:]
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I4x", 10) + canvas + small
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bombs() -> dict[str, bytes]:
    """Small files that ask for much; none may cost more than a glance."""
    png = encoded(flag(), "PNG")
    gif = bytearray(encoded(flag(), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_000, 65_000)
    far = b"\x2c" + struct.pack("<HHHHB", 65_000, 65_000, 1, 1, 0) + b"\x02\x02\x4c\x01\0\x3b"
    entries = b"".join(struct.pack("<HHII", tag, 1, 8_000_000, 8) for tag in range(1, 65_535) if tag != 0x0112)
    tags = b"II*\0\x08\0\0\0" + struct.pack("<H", 65_533) + entries + bytes(8_000_000)
    short = b"".join(struct.pack("<HHII", tag, 1, 60_000, 8) for tag in range(1, 5_000) if tag != 0x0112)
    block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 4_998) + short + bytes(5_500)
    zeros = zlib.compress(bytes(200_000_000))
    return {
        "178 megapixels in 22 kB": encoded(Image.new("1", (13_341, 13_341)), "PNG"),
        "GIF canvas": bytes(gif),
        "GIF frame far out": encoded(flag(), "GIF")[:-1] + far,
        "WebP canvas": webp_canvas(16_383, 9_949),
        "WebP lossless header": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8L" + struct.pack("<I", 10) + b"\x2f"
        + ((16_382) | (16_382 << 14)).to_bytes(4, "little") + bytes(5),
        "BMP header": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 60_000, -60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "TIFF G4": encoded(Image.new("1", (9_000, 9_000)), "TIFF", compression="group4"),
        "JPEG 2000": encoded(Image.new("L", (64, 48)), "JPEG2000").replace(
            b"ihdr" + struct.pack(">II", 48, 64), b"ihdr" + struct.pack(">II", 9_000, 9_000)
        ),
        "65500x1": encoded(Image.new("RGB", (65_500, 1)), "JPEG"),
        "1x65500": encoded(Image.new("RGB", (1, 65_500)), "JPEG"),
        "zTXt": png_with(png, (b"zTXt", b"k\0\0" + zeros)),
        "iTXt": png_with(png, (b"iTXt", b"k\0\1\0\0\0" + zeros)),
        "iCCP": png_with(png, (b"iCCP", b"k\0\0" + zeros)),
        "EXIF tags that share 8 MB": png_with(png, (b"eXIf", tags)),
        "EXIF tags that share 60 kB": encoded(flag(), "JPEG", exif=block),
        "a million parts": png_with(png, *[(b"IDAT", b"")] * 200_000),
        "a thousand scans": _many_scans(1_000),
        "GIF comment": _long_comment(2_000_000),
        "BMP runs": b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 1078, 40, 4_000, 4_000, 1, 8, 1, 0, 0, 0, 256, 0)
        + bytes(1024) + b"\1\5" * 4_000_000,
    }  # fmt: skip


HARMLESS = frozenset({"zTXt", "iTXt", "iCCP", "EXIF tags that share 8 MB", "EXIF tags that share 60 kB", "GIF comment"})
"""Bombs that hide in parts which no pixel needs: the picture itself is fine and is read."""


def _many_scans(count: int) -> bytes:
    data = encoded(Image.new("L", (2_000, 2_000)), "JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    scan = data[start : data.index(b"\xff\xda", start + 2)]
    return data[:-2] + scan * count + data[-2:]


def _long_comment(blocks: int) -> bytes:
    data = encoded(flag(), "GIF")
    start = 13 + 3 * (2 << (data[10] & 7))
    return data[:start] + b"\x21\xfe" + b"\x01a" * blocks + b"\0" + data[start:]
