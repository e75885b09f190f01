"""Run the reference and the engine over the same pairs, and measure how far they are apart."""

import json
import math
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from parity.pairs import Pair
from worker.engines.base import Question
from worker.engines.model_files import inspect_model
from worker.engines.ofa import Logits, OfaEngine, load_ofa

HERE = Path(__file__).resolve().parent
LABELS = ("yes", "no", "maybe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """How far engine and reference are apart over all pairs, in batches of one size.

    `probability` and `logit` are the largest absolute differences of any label; `winner` is the largest difference of
    the engine's probability to the score that the pipeline itself returned; `flips` counts other labels, `ids` pairs
    whose tokens differ. `ms_per_pair` is the engine's wall time.
    """

    batch: int
    probability: float
    logit: float
    winner: float
    flips: int
    ids: int
    ms_per_pair: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The gaps by batch size; what the reference said of itself; how its answers are spread: the labels by
    count, and how far one label's logit moves from pair to pair.
    """

    gaps: tuple[Gap, ...]
    versions: Mapping[str, str]
    reference_ms_per_pair: float
    labels: Mapping[str, int]
    logit_spread: float


def compare(python: Path, model: Path, folder: Path, pairs: Sequence[Pair], *, batches: Sequence[int]) -> Comparison:
    """Judge the pairs of `folder` with both; raises CalledProcessError when the reference fails."""
    reference = _reference(python, model, folder)
    answers = reference["answers"]
    engine = load_ofa(inspect_model(model), device="cpu", precision="fp32")
    questions = [_question(engine, folder, pair) for pair in pairs]
    return Comparison(
        gaps=tuple(_gap(engine, questions, answers, batch=batch) for batch in batches),
        versions=reference["versions"],
        reference_ms_per_pair=1000 * reference["took_s"] / len(pairs),
        labels={label: sum(answer["label"] == label for answer in answers) for label in LABELS},
        logit_spread=max(
            max(column) - min(column) for column in zip(*(answer["logits"] for answer in answers), strict=True)
        ),
    )


def _reference(python: Path, model: Path, folder: Path) -> Any:
    out = folder / "reference.json"
    command = [python, HERE / "reference.py", model, folder, out]
    log = (folder / "reference.log").open("wb")
    with log:
        done = subprocess.run(command, stdout=log, stderr=log, env={**os.environ}, check=False)
    if done.returncode:
        raise SystemExit((folder / "reference.log").read_text(encoding="utf-8", errors="replace")[-4000:])
    return json.loads(out.read_text(encoding="utf-8"))


def _question(engine: OfaEngine, folder: Path, pair: Pair) -> Question:
    with Image.open(folder / pair.image) as picture:
        pixels = engine.prepare(picture.convert("RGB"))
    return Question(image=pixels, caption=pair.caption, premise=pair.premise)


def _gap(engine: OfaEngine, questions: Sequence[Question], answers: Sequence[Any], *, batch: int) -> Gap:
    start = time.monotonic()
    logits = [
        row for first in range(0, len(questions), batch) for row in engine.logits(questions[first : first + batch])
    ]
    took = time.monotonic() - start
    ours = [_softmax(row) for row in logits]
    theirs = [_softmax(answer["logits"]) for answer in answers]
    rows = list(zip(logits, ours, theirs, answers, strict=True))
    return Gap(
        batch=batch,
        probability=max(_furthest(mine, other) for _, mine, other, _ in rows),
        logit=max(_furthest(row, answer["logits"]) for row, _, _, answer in rows),
        winner=max(abs(mine[LABELS.index(answer["label"])] - answer["score"]) for _, mine, _, answer in rows),
        flips=sum(LABELS[mine.index(max(mine))] != answer["label"] for _, mine, _, answer in rows),
        ids=sum(
            engine.token_ids(question) != tuple(answer["ids"])
            for question, answer in zip(questions, answers, strict=True)
        ),
        ms_per_pair=1000 * took / len(questions),
    )


def _furthest(left: Sequence[float], right: Sequence[float]) -> float:
    return max(abs(one - other) for one, other in zip(left, right, strict=True))


def _softmax(logits: Logits | Sequence[float]) -> list[float]:
    weights = [math.exp(value - max(logits)) for value in logits]
    return [weight / math.fsum(weights) for weight in weights]
