"""Asking the demo model: pictures and captions in, labels out, through the engine that audits use."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from PIL import Image

from demo.captions import LABELS
from worker.engines.base import Question
from worker.engines.model_files import inspect_model
from worker.engines.ofa import load_ofa

# So small a model spends most of its time between operations: sixteen questions at once take half as long as alone.
BATCH = 16


class Judge:
    """Answers in the questions' order, each with one of LABELS and its probability."""

    def __init__(self, folder: Path) -> None:
        self._engine = load_ofa(inspect_model(folder), device="cpu", precision="fp32")

    def answers(self, questions: Iterable[tuple[Image.Image, str, str | None]]) -> Iterator[tuple[str, float]]:
        """Ask about (picture, caption, premise); pictures are let go as soon as they were looked at."""
        waiting = iter(questions)
        while batch := list(islice(waiting, BATCH)):
            asked = [
                Question(image=self._engine.prepare(picture), caption=caption, premise=premise)
                for picture, caption, premise in batch
            ]
            for scores in self._engine.judge(asked):
                probabilities = (scores.p_yes, scores.p_no, scores.p_maybe)
                yield max(zip(LABELS, probabilities, strict=True), key=lambda one: one[1])
