"""Asking the demo model: pictures and captions in, labels out, through the engine that audits use."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from demo.captions import LABELS
from worker.engines.base import Question
from worker.engines.model_files import inspect_model
from worker.engines.ofa import load_ofa


class Judge:
    """Answers in the questions' order, each with one of LABELS and its probability."""

    def __init__(self, folder: Path) -> None:
        self._engine = load_ofa(inspect_model(folder), device="cpu", precision="fp32")

    def answers(self, questions: Sequence[tuple[Image.Image, str, str | None]]) -> Iterator[tuple[str, float]]:
        """Ask about (picture, caption, premise), one by one: on a CPU that is the fastest way."""
        for picture, caption, premise in questions:
            (scores,) = self._engine.judge([Question(image=picture, caption=caption, premise=premise)])
            yield max(zip(LABELS, (scores.p_yes, scores.p_no, scores.p_maybe), strict=True), key=lambda one: one[1])
