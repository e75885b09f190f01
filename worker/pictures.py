"""The two ways to a picture: in this process at full speed, or through a throwaway process when care is asked for."""

from pathlib import Path
from types import TracebackType

from audit.settings import Settings
from worker.images.careful import CarefulDecoder
from worker.images.decode import Decoded, decode
from worker.images.fetch import read_picture
from worker.images.limits import ImageLimits


class FilePictures:
    """Reads below `root` and decodes here, in the calling thread; safe in several threads at once."""

    def __init__(self, *, root: str, limits: ImageLimits) -> None:
        self._root = Path(root)
        self._limits = limits

    def read(self, reference: str) -> bytes:
        """The file's bytes; raises BadImage."""
        return read_picture(reference, root=self._root, limits=self._limits)

    def decode(self, data: bytes, *, name: str) -> Decoded:
        """Upright RGB pixels; raises BadImage."""
        return decode(data, limits=self._limits, name=name)


class CarefulPictures(FilePictures):
    """Decodes in a throwaway process without a model, so that a crashing decoder costs no reload."""

    def __init__(self, *, root: str, limits: ImageLimits) -> None:
        super().__init__(root=root, limits=limits)
        self._decoder = CarefulDecoder(limits=limits)

    def __enter__(self) -> "CarefulPictures":
        self._decoder.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoder.__exit__(kind, error, trace)

    def decode(self, data: bytes, *, name: str) -> Decoded:
        """As FilePictures; raises BadImage `decoder_crashed` or `decoder_timeout` too."""
        return self._decoder.decode(data, name=name)


def image_limits(settings: Settings) -> ImageLimits:
    """The operator's limits for pictures."""
    return ImageLimits(
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        max_side_ratio=settings.max_side_ratio,
        decode_limit_s=settings.decode_limit_s,
    )
