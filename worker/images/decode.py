"""From bytes to pixels, without trust.

The structure of the file is read by code of our own first (worker/images/formats/), the limits are checked on what it
says, and Pillow is given only what the pixels need. Colour profiles are not applied, as in the model's own pipeline.
"""

import hashlib
import io
import struct
import threading
import zlib
from dataclasses import dataclass
from typing import NoReturn

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageChops,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from audit.errors import BadImage
from worker.images.codes import ANIMATED, FORMAT_MISMATCH, IMAGE_EMPTY, IMAGE_TOO_LARGE
from worker.images.formats import inspect
from worker.images.formats.jpeg import with_filler
from worker.images.formats.png import lacks_rows
from worker.images.header import Header, Kind, truncated, unsupported
from worker.images.limits import ImageLimits, check_bytes, check_size
from worker.images.names import contradicts
from worker.images.pixels import to_rgb

_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin)
"""Importing them registers them; Image.open() would import all of Pillow's forty formats to find WebP."""

_COMPLAINTS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError, AssertionError,
    RuntimeError, SystemError, BufferError, Warning, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow has been seen to raise. Not `Exception`: Celery's time limit arrives as one, anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """An upright RGB picture without alpha; `width` and `height` are its own, `sha256` (hex) is of the file's bytes.

    `format` is what the content is, whatever the file's name says.
    """

    image: Image.Image
    flags: tuple[str, ...]
    sha256: str
    width: int
    height: int
    format: Kind
    mode: str = "RGB"  # of the pixels in the file, as Pillow names it
    file_bytes: int = 0

    @property
    def facts(self) -> "PictureFacts":
        """What there is to tell of it, without its pixels."""
        return PictureFacts(
            width=self.width, height=self.height, format=self.format, mode=self.mode, file_bytes=self.file_bytes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """Of a picture: as it is in its file."""

    width: int
    height: int
    format: Kind
    mode: str
    file_bytes: int


def decode(data: bytes, *, limits: ImageLimits, name: str | None = None, sha256: str | None = None) -> Decoded:
    """The first frame of a picture, upright, RGB, on white; safe to call in several threads at once.

    `name` is the reference, for the flag `format_mismatch`; `sha256` saves computing it again. The content decides the
    format. Raises BadImage (`codes.DECODE_CODES`) and nothing else, whatever the bytes are.
    """
    if not data:
        raise BadImage(IMAGE_EMPTY, "the file has no bytes")
    check_bytes(len(data), limits)
    header = inspect(data, limits)
    check_size(header.width, header.height, limits)
    try:
        image, flags, mode = _pixels(header, limits)
    except MemoryError:
        raise BadImage(IMAGE_TOO_LARGE, f"{header.width}x{header.height} pixels do not fit the memory left") from None
    if header.animated:
        flags.append(ANIMATED)
    if name is not None and contradicts(name, header.kind):
        flags.append(FORMAT_MISMATCH)
    digest = sha256 or hashlib.sha256(data).hexdigest()
    return Decoded(
        image=image,
        flags=tuple(flags),
        sha256=digest,
        width=image.width,
        height=image.height,
        format=header.kind,
        mode=mode,
        file_bytes=len(data),
    )


def _pixels(header: Header, limits: ImageLimits) -> tuple[Image.Image, list[str], str]:
    image = _strictly(header, header.plain, limits)
    if _suspicious(image, header) and _ends_early(image, header, limits):
        raise truncated(f"the {header.kind} picture's data ends early: its lower part is missing")
    try:
        return *to_rgb(image, header), image.mode
    except _COMPLAINTS as error:
        raise unsupported(f"a {header.kind} picture whose colours cannot be read ({type(error).__name__})") from None


def _suspicious(image: Image.Image, header: Header) -> bool:
    """Whether data may be missing at the end, which libjpeg fills with middle grey, and Pillow's PNG reader with zeros.

    Neither tells, and to be sure costs a second decoding: so only pictures whose last pixel looks like that are
    suspected, and those where the missing data shows nowhere in particular (interlaced, CMYK).
    """
    if header.kind not in ("JPEG", "PNG"):
        return False
    if header.elusive or image.mode == "CMYK":
        return True
    corner = image.getpixel((image.width - 1, image.height - 1))
    values = set(corner) if isinstance(corner, tuple) else {corner}
    return values == ({128} if header.kind == "JPEG" else {0})


def _ends_early(image: Image.Image, header: Header, limits: ImageLimits) -> bool:
    if header.kind == "PNG":
        try:
            return lacks_rows(header.plain)
        except zlib.error:
            return True
    filled = _strictly(header, with_filler(header.plain, header.end), limits)
    return ImageChops.difference(image, filled).getbbox() is not None


_guard = threading.Lock()
_leniency_seen = 0


def _strictly(header: Header, plain: bytes, limits: ImageLimits) -> Image.Image:
    """Load with Pillow's leniency off, again if somebody turned it on meanwhile.

    Importing modelscope's pipelines sets LOAD_TRUNCATED_IMAGES for the whole process, at any time and in any thread;
    Pillow then fills what is missing with black and says nothing. Whoever finds it on turns it off and counts.
    """
    while True:
        before = _refuse_leniency()
        try:
            image = _load(header, plain, limits)
        finally:
            after = _refuse_leniency()
        if before == after:
            return image


def _refuse_leniency() -> int:
    global _leniency_seen  # noqa: PLW0603 - it counts changes to a global of Pillow's
    with _guard:
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            _leniency_seen += 1
        return _leniency_seen


def _load(header: Header, plain: bytes, limits: ImageLimits) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(plain), formats=[header.kind])
    except _COMPLAINTS as error:
        _refuse(error, header, opened=False)
    check_size(*image.size, limits)
    try:
        image.load()
    except _COMPLAINTS as error:
        _refuse(error, header, opened=True)
    return image


def _refuse(error: Exception, header: Header, *, opened: bool) -> NoReturn:
    """Say in our own words what Pillow complained about."""
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        raise BadImage(IMAGE_TOO_LARGE, f"{header.width}x{header.height} pixels are over the decoder's own limit")
    if opened or "truncated" in str(error).lower() or isinstance(error, EOFError | zlib.error):
        raise truncated(f"the {header.kind} picture is damaged: its pixels cannot be decoded")
    raise unsupported(f"a {header.kind} picture of a variant that is not read")
