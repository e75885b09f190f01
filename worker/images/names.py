"""What a picture's name claims about its format."""

_EXTENSIONS = {
    "jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG", "mpo": "JPEG", "png": "PNG", "apng": "PNG",
    "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "dib": "BMP",
}  # fmt: skip
_OTHER_EXTENSIONS = (
    "tif tiff svg svgz heic heif avif jp2 j2k jpf jpx jxl ico psd pdf eps ps ai raw dng txt html htm xml json csv zip "
    "mp4 mov avi webm mp3 wav pkl pickle bin exe php"
)
_OTHERS = frozenset(_OTHER_EXTENSIONS.split())


def contradicts(name: str, kind: str) -> bool:
    """Whether the name's extension says another format than `kind` (JPEG, PNG, WEBP, GIF, BMP).

    A name without an extension, or with one that we do not know (`photo.2024-05`), claims nothing.
    """
    _, dot, extension = name.rpartition("/")[2].rpartition(".")
    extension = extension.strip().lower()
    if not dot:
        return False
    return _EXTENSIONS.get(extension, kind) != kind or extension in _OTHERS
