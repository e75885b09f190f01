"""From a reference to pixels in one step, as the worker's threads and the careful process do it."""

from pathlib import Path

from worker.images.decode import Decoded, decode
from worker.images.fetch import read_picture
from worker.images.limits import ImageLimits


def load_picture(reference: str, *, root: Path, limits: ImageLimits) -> Decoded:
    """Read and decode; raises what read_picture() and decode() raise (BadImage, Transient)."""
    return decode(read_picture(reference, root=root, limits=limits), limits=limits, name=reference)
