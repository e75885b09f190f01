"""One reader of structure a format: bytes in, Header out, pixels untouched."""

from collections.abc import Callable

from worker.images.formats import bmp, gif, jpeg, png, webp
from worker.images.formats.foreign import refusal
from worker.images.header import Header
from worker.images.limits import ImageLimits

_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], Header]], ...] = (
    (jpeg.accepts, jpeg.inspect),
    (png.accepts, png.inspect),
    (webp.accepts, webp.inspect),
    (gif.accepts, gif.inspect),
    (bmp.accepts, bmp.inspect),
)


def inspect(data: bytes, limits: ImageLimits) -> Header:
    """The header of a picture of one of the five formats; the content decides which.

    Raises BadImage: `image_unsupported`, `image_truncated`, or `image_too_large` for a picture that is built to keep a
    decoder busy. The caller checks the size.
    """
    for accepts, read in _READERS:
        if accepts(data):
            return read(data)
    raise refusal(data, limits)
