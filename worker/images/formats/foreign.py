"""What is no picture of ours: named where a glance tells, so that the failure says what to do about it."""

import struct

from audit.errors import BadImage
from worker.images.codes import IMAGE_TOO_LARGE
from worker.images.header import unsupported
from worker.images.limits import ImageLimits, check_size

READ = "JPEG, PNG, WebP, GIF and BMP are read"
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF"),
    (b"%!PS", "an EPS or PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"II+\0", "a BigTIFF picture"),
    (b"MM\0+", "a BigTIFF picture"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x7fELF", "a program"),
    (b"RIFF", "a sound or film (RIFF)"),
    (b"version https://git-lfs", "a Git LFS pointer: the picture itself was not downloaded"),
)
_BRANDS = {
    b"heic": "a HEIC picture",
    b"heix": "a HEIC picture",
    b"heif": "a HEIF picture",
    b"mif1": "a HEIF picture",
    b"msf1": "a HEIF picture",
    b"hevc": "a HEIC picture",
    b"avif": "an AVIF picture",
    b"avis": "an AVIF picture",
}


def refusal(data: bytes, limits: ImageLimits) -> BadImage:
    """The error: `image_too_large` when a header says so, otherwise `image_unsupported` with the guessed kind."""
    kind = guess(data)
    size = _size(data)
    if size is not None:
        try:
            check_size(*size, limits)
        except BadImage as error:
            if error.code == IMAGE_TOO_LARGE:
                return BadImage(IMAGE_TOO_LARGE, f"{kind}: {error.detail}")
    return unsupported(f"{kind}; {READ}")


def guess(data: bytes) -> str:
    """The kind in words, `not a picture that we know` when a glance does not tell."""
    for start, kind in _STARTS:
        if data.startswith(start):
            return kind
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "a film (MP4 family)")
    if data[:1] == b"\x80" and data[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "a Python pickle, which is never loaded"
    return _guess_text(data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower())


def _guess_text(text: bytes) -> str:
    if b"<svg" in text:
        return "an SVG drawing"
    if b"<html" in text or text.startswith((b"<!doctype html", b"<head", b"<body")):
        return "an HTML page, perhaps an error page that was saved as a picture"
    if text.startswith(b"<?xml"):
        return "an XML file"
    return "a JSON file" if text.startswith((b"{", b"[")) else "not a picture that we know"


def _size(data: bytes) -> tuple[int, int] | None:
    """(width, height) where two of the formats that we do not read keep them; None when not found."""
    try:
        if data.startswith(b"\xff\x4f\xff\x51"):
            right, bottom, left, top = struct.unpack_from(">IIII", data, 8)
            return right - left, bottom - top
        if data.startswith(b"\0\0\0\x0cjP  "):
            box = data.index(b"ihdr", 0, 200)
            height, width = struct.unpack_from(">II", data, box + 4)
            return width, height
        if data.startswith((b"II*\0", b"MM\0*")):
            return _tiff_size(data, "<" if data.startswith(b"II") else ">")
    except (struct.error, ValueError):
        pass
    return None


def _tiff_size(data: bytes, order: str) -> tuple[int, int] | None:
    sides: dict[int, int] = {}
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    for index in range(count):
        entry = start + 2 + 12 * index
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257):
            (sides[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
    return (sides[256], sides[257]) if len(sides) == 2 else None
