"""What is true of a run, apart from any database: the manifests that were written, and what each pair must end as."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

from tests.chaos.plan import BAD_PICTURES, PICTURES, PlannedBatch, PlannedPair
from tests.support.manifests import write_csv
from worker.engines.base import Question
from worker.engines.stub import load_stub

SIDE = 24
CRASHING_DECODER = """
import os, signal
from collections import deque
from itertools import repeat
from PIL import Image
opened = Image.open
def fragile(file, *arguments, **options):
    where = file.tell() if hasattr(file, "tell") else None
    if where is not None:
        content = file.read()
        file.seek(where)
        if b"CRASH-MARKER" in content:
            os.kill(os.getpid(), signal.SIGSEGV)
        if b"STALL-MARKER" in content:
            deque(repeat(None), maxlen=0)
    return opened(file, *arguments, **options)
Image.open = fragile
"""
MARKERS = {"crash": b"CRASH-MARKER", "stall": b"STALL-MARKER"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a pair must end as: a failure's code, or a verdict's label and probabilities."""

    code: str | None = None
    label: str | None = None
    scores: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(slots=True, kw_only=True)
class Acknowledged:
    """A batch whose submission was answered: from then on each of its pairs is owed an outcome."""

    batch: int
    name: str
    expected: Mapping[str, Expected]
    cancelled: bool = False


@dataclass(slots=True, kw_only=True)
class Truth:
    """The driver's own list, and the chunks that it has struck itself."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    struck: set[tuple[int, int]] = field(default_factory=set)  # batch and chunk of each process that it killed

    @property
    def pairs(self) -> int:
        """How many pairs are owed an outcome."""
        return sum(len(one.expected) for one in self.acknowledged)


def draw_pictures(folder: Path, seed: int) -> None:
    """Pictures of two colours, and such as crash or stall the decoder through the hook in `decoder_hook`."""
    rng = Random(f"pictures {seed}")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        colours = [tuple(rng.randrange(256) for _ in range(3)) for _ in range(2)]
        picture = Image.new("RGB", (SIDE, SIDE), colours[0])
        left, top = rng.randrange(SIDE // 2), rng.randrange(SIDE // 2)
        ImageDraw.Draw(picture).rectangle((left, top, left + SIDE // 2, top + SIDE // 2), fill=colours[1])
        picture.save(folder / f"{number}.png")
    spoil(folder, folder / "0.png")


def spoil(folder: Path, good: Path) -> None:
    """Three pictures of each bad kind; the marker stands behind the last chunk, where decoders do not look."""
    for kind in BAD_PICTURES:
        for number in range(3):
            if kind in MARKERS:
                (folder / f"{kind}-{number}.png").write_bytes(good.read_bytes() + MARKERS[kind])


def decoder_hook(folder: Path) -> str:
    """A PYTHONPATH with which decoders obey the markers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(CRASHING_DECODER)
    return str(folder)


def write_manifest(folder: Path, batch: PlannedBatch) -> Path:
    """The batch as a CSV beside its pictures."""
    rows = [(pair.id, pair.image, pair.caption, pair.premise) for pair in batch.pairs]
    return write_csv(folder / f"{batch.name}.csv", rows, header=("id", "image", "caption", "premise"))


def expected_of_stub(pairs: Sequence[PlannedPair], folder: Path) -> dict[str, Expected]:
    """What the stub engine answers, asked here and in no worker."""
    engine, pixels = load_stub(), dict[str, bytes]()
    for name in {pair.image for pair in pairs if pair.code is None}:
        with Image.open(folder / name) as picture:
            pixels[name] = engine.prepare(picture.convert("RGB"))
    told: dict[str, Expected] = {}
    for pair in pairs:
        if pair.code is not None:
            told[pair.id] = Expected(code=pair.code)
            continue
        question = Question(image=pixels[pair.image], caption=pair.caption, premise=pair.premise or None)
        (scores,) = engine.judge([question])
        told[pair.id] = Expected(label=scores.label.value, scores=(scores.p_yes, scores.p_no, scores.p_maybe))
    return told
