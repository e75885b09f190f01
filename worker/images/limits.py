"""What a picture may cost before anybody looks at its pixels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.errors import BadImage
from worker.images.codes import IMAGE_TOO_LARGE, IMAGE_TRUNCATED

if TYPE_CHECKING:
    from audit.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """Bytes of the file, pixels (width times height), and how much one side may exceed the other."""

    max_image_bytes: int = 20_000_000
    max_image_pixels: int = 20_000_000
    max_side_ratio: float = 50.0

    @classmethod
    def from_settings(cls, settings: "Settings") -> "ImageLimits":
        """The three limits that an operator may set."""
        return cls(
            max_image_bytes=settings.max_image_bytes,
            max_image_pixels=settings.max_image_pixels,
            max_side_ratio=settings.max_side_ratio,
        )


def check_bytes(count: int, limits: ImageLimits) -> None:
    """Raises BadImage (`image_too_large`) when a file of `count` bytes is over the limit."""
    if count > limits.max_image_bytes:
        raise BadImage(IMAGE_TOO_LARGE, f"the file is over {limits.max_image_bytes:,} bytes (AUDIT_MAX_IMAGE_BYTES)")


def check_size(width: int, height: int, limits: ImageLimits) -> None:
    """Raises BadImage: `image_too_large` over a limit, `image_truncated` when a side is not positive."""
    if width <= 0 or height <= 0:
        raise BadImage(IMAGE_TRUNCATED, f"the header says {width}x{height} pixels: there is no picture in it")
    if width * height > limits.max_image_pixels:
        raise BadImage(
            IMAGE_TOO_LARGE,
            f"{width}x{height} is over {limits.max_image_pixels:,} pixels (AUDIT_MAX_IMAGE_PIXELS)",
        )
    if max(width, height) > limits.max_side_ratio * min(width, height):
        raise BadImage(
            IMAGE_TOO_LARGE,
            f"{width}x{height}: one side is over {limits.max_side_ratio:g} times the other (AUDIT_MAX_SIDE_RATIO)",
        )
