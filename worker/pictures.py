"""The two ways to a picture: in this process at full speed, or through a throwaway process when care is asked for."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from audit.settings import Settings
from telemetry.traces import span
from worker.images.careful import CarefulDecoder
from worker.images.decode import Decoded, decode
from worker.images.fetch import read_picture
from worker.images.limits import ImageLimits


class Pictures(Protocol):
    """Where pictures come from."""

    def __call__(self, reference: str) -> Decoded:
        """Upright RGB pixels with the file's sha256; raises BadImage."""


def quick_pictures(root: str, settings: Settings) -> AbstractContextManager[Pictures]:
    """Decodes here, in the calling thread; safe in several threads at once."""
    limits, folder = ImageLimits.from_settings(settings), Path(root)
    return nullcontext(lambda reference: _load(reference, folder, limits))


def _load(reference: str, root: Path, limits: ImageLimits) -> Decoded:
    """As worker.images.load.load_picture, which the careful process does, with a span for each step."""
    with span("fetch") as seen:
        data = read_picture(reference, root=root, limits=limits)
        seen.tell(bytes=len(data))
    with span("decode") as seen:
        decoded = decode(data, limits=limits, name=reference)
        seen.tell(width=decoded.width, height=decoded.height, format=decoded.format)
    return decoded


class CarefulPictures:
    """Decodes in a throwaway process without a model, so that a decoder that crashes costs no reload."""

    def __init__(self, root: str, settings: Settings) -> None:
        self._root = Path(root)
        self._decoder = CarefulDecoder(
            limits=ImageLimits.from_settings(settings), decode_limit_s=settings.decode_limit_s
        )

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *_: object) -> None:
        self._decoder.close()

    def __call__(self, reference: str) -> Decoded:
        """As load_picture; raises BadImage `decoder_crashed` or `decoder_timeout` too."""
        with span("decode", careful=True) as seen:
            decoded = self._decoder.decode(reference, root=self._root)
            seen.tell(width=decoded.width, height=decoded.height, format=decoded.format)
        return decoded
