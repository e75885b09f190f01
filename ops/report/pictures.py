"""Thumbnails of the flagged pairs' pictures, as data: URIs.

The pictures are hostile: they are read as a worker reads them, with all its limits, and decoded in a throwaway process.
"""

import base64
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from audit.errors import BadImage, Transient
from audit.settings import Settings
from worker.pictures import CarefulPictures

if TYPE_CHECKING:
    from worker.images.decode import Decoded

SIDE = 320
JPEG_QUALITY = 80
LIMIT_S = 120.0
"""For all pictures together: each may take AUDIT_DECODE_LIMIT_S, and a folder of the worst must not take an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A picture by its reference, and the sha256 of the file that was judged."""

    reference: str
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A small picture, or none; `note` says what is missing or odd, in words."""

    uri: str | None
    width: int
    height: int
    note: str


def thumbnails(
    wanted: Mapping[int, Wanted],
    *,
    image_root: str,
    settings: Settings,
    limit_s: float = LIMIT_S,
    clock: Callable[[], float] = time.monotonic,
) -> dict[int, Thumbnail]:
    """A thumbnail for every row; what cannot be read or decoded gets one without a picture, and never raises."""
    ends = clock() + limit_s
    made: dict[Wanted, Thumbnail] = {}
    with CarefulPictures(image_root, settings) as pictures:
        for one in wanted.values():
            if one not in made:
                made[one] = _thumbnail(one, pictures) if clock() < ends else _none("not drawn: time was up")
    return {row: made[one] for row, one in wanted.items()}


def _thumbnail(wanted: Wanted, pictures: "Callable[[str], Decoded]") -> Thumbnail:
    try:
        decoded = pictures(wanted.reference)
    except (BadImage, Transient) as error:
        return _none(f"no picture now: {error.code}, {error.detail}")
    small = decoded.image
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=JPEG_QUALITY, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    changed = wanted.sha256 is not None and wanted.sha256 != decoded.sha256
    note = "the file has changed since it was judged" if changed else ""
    return Thumbnail(uri=uri, width=small.width, height=small.height, note=note)


def _none(note: str) -> Thumbnail:
    return Thumbnail(uri=None, width=0, height=0, note=note)
