"""What is known of a picture before its pixels are decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from audit.errors import BadImage
from worker.images.codes import IMAGE_TOO_LARGE, IMAGE_TRUNCATED, IMAGE_UNSUPPORTED

Kind = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP"]
KINDS: Sequence[Kind] = get_args(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Found by walking the file's structure with code of our own.

    `plain` is what Pillow is given: the file without the parts that no pixel needs and that have been used against
    readers (profiles, EXIF, compressed texts, endless comments), or the very same bytes when it has none.
    `elusive` says that pixel data which is missing at the end would show nowhere in particular.
    `end` is where in it a JPEG's end marker stands.
    `width` and `height` are as stored, before `orientation` (EXIF, 1 to 8) is applied; `depth` is bits a channel.
    """

    kind: Kind
    width: int
    height: int
    plain: bytes
    animated: bool = False
    orientation: int = 1
    depth: int = 8
    elusive: bool = False
    end: int = 0


def truncated(detail: str) -> BadImage:
    """The file says that there should be more, or is damaged."""
    return BadImage(IMAGE_TRUNCATED, detail)


def unsupported(detail: str) -> BadImage:
    """A format or a variant that is not read."""
    return BadImage(IMAGE_UNSUPPORTED, detail)


def too_much_work(detail: str) -> BadImage:
    """Small in pixels, but built to keep a decoder busy."""
    return BadImage(IMAGE_TOO_LARGE, detail)
