"""The canary: questions that a loaded engine must answer soundly before it is given anybody's pairs, and again later.

Every engine is asked about one drawn picture. A model directory may bring questions with known answers of its own, in
canary.json: a list of {"image_file", "caption", "label"}, pictures beside it.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.errors import EngineFault, ModelRefused, OutOfDeviceMemory, PoisonedProcess
from audit.verdict import Label, Scores
from worker.engines.base import Engine, Question

FILE = "canary.json"
MAX_QUESTIONS = 32
MAX_BYTES = 100_000
CAPTION = "there is a red circle"
LONGER_CAPTION = "there is a red circle on a white ground, and nothing else can be seen in this picture"
TOLERANCES = {"bf16": 0.05}
"""How far a question's scores may move when it has a neighbour; bfloat16 keeps 8 bits, so its sums depend on shapes."""
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAnswer:
    """One entry of canary.json."""

    image_file: str
    caption: str
    label: Label


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A question that was answered soundly when the engine was loaded, and how; `label` is what canary.json says."""

    question: Question
    label: Label | None
    scores: Scores


class WrongAnswer(EngineFault):
    """A loaded engine does not answer a known question as it should; `expected` and `got` are for the log.

    `after_a_pair`: it was asked since the engine had just failed on a pair, which may have made it so.
    """

    def __init__(self, code: str, detail: str, *, question: str = "", expected: str = "", got: str = "") -> None:
        super().__init__(code, detail)
        self.after_a_pair = False
        self.told = {"question": question, "expected": expected, "got": got}


def read_known_answers(directory: Path) -> tuple[KnownAnswer, ...]:
    """Return the directory's canary.json, nothing if there is none; raises ModelRefused when it is malformed."""
    path = directory / FILE
    if not path.exists():
        return ()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"over {MAX_BYTES} bytes")
        known = tuple(_entry(entry) for entry in json.loads(path.read_text(encoding="utf-8")))
        if not 1 <= len(known) <= MAX_QUESTIONS:
            raise ValueError(f"{len(known)} questions, not 1 to {MAX_QUESTIONS}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelRefused("model_config", f"{path}: not a list of image_file, caption and label ({error})") from error
    return known


def prove(engine: Engine) -> tuple[Known, ...]:
    """Ask the canary questions; raises WrongAnswer when an answer is unsound, depends on its neighbour, or is wrong.

    Returns them with their answers, to be asked again. Raises OutOfDeviceMemory or PoisonedProcess as judge() does.
    """
    picture = engine.prepare(draw_canary())
    question = Question(image=picture, caption=CAPTION)
    neighbour = Question(image=picture, caption=LONGER_CAPTION)
    alone = _judge(engine, [question])[0]
    together = _judge(engine, [question, neighbour])
    if len(together) != 2 or _apart(alone, together[0]) > tolerance(engine):
        raise WrongAnswer(
            "canary_failed", f"the canary's answer changes with its neighbour: {alone}, then {together[:1]}"
        )
    drawn = Known(question=question, label=None, scores=alone)
    return (drawn, *(_prove_known(engine, asked, label) for asked, label in engine.known_answers()))


def prove_pass(engine: Engine, *, size: int) -> None:
    """Ask the canary question `size` times in one pass; raises WrongAnswer when an answer is another than alone."""
    question = Question(image=engine.prepare(draw_canary()), caption=CAPTION)
    alone = _judge(engine, [question])[0]
    together = _judge(engine, [question] * size)
    if len(together) != size or any(_apart(alone, answer) > tolerance(engine) for answer in together):
        raise WrongAnswer("canary_failed", f"the canary's answer changes in a pass of {size}")


def ask_again(engine: Engine, known: Known) -> None:
    """Ask one question alone, as it was at load; raises WrongAnswer when the label or the scores are others.

    Weights that went wrong change the label, or the scores by more than rounding does.
    """
    caption = known.question.caption
    expected = f"{known.label or known.scores.label} {_shown(known.scores)}"
    try:
        scores = _judge(engine, [known.question])[0]
    except WrongAnswer as error:
        raise WrongAnswer(error.code, error.detail, question=caption, expected=expected, got=error.detail) from None
    label, moved = known.label or known.scores.label, _apart(known.scores, scores)
    if (known.label and scores.label is not label) or moved > tolerance(engine):
        got = f"{scores.label} {_shown(scores)}"
        detail = f"{caption!r} was {expected} and is {got}: moved by {moved:.4f}"
        raise WrongAnswer("canary_failed", detail, question=caption, expected=expected, got=got)


def tolerance(engine: Engine) -> float:
    """How far this engine's scores for one question may move."""
    return TOLERANCES.get(engine.card.precision, TOLERANCE)


def _prove_known(engine: Engine, question: Question, label: Label) -> Known:
    scores = _judge(engine, [question])[0]
    if scores.label is not label:
        raise WrongAnswer(
            "canary_failed", f"{question.caption!r} of canary.json is {label}, but was judged {scores.label}"
        )
    return Known(question=question, label=label, scores=scores)


def _judge(engine: Engine, questions: Sequence[Question]) -> list[Scores]:
    """Unsound scores (not finite, not summing to 1) cannot be made into Scores at all: engines raise EngineFault."""
    try:
        return engine.judge(questions)
    except (OutOfDeviceMemory, PoisonedProcess):
        raise
    except EngineFault as error:
        raise WrongAnswer(error.code, error.detail) from None


def _shown(scores: Scores) -> str:
    return f"yes {scores.p_yes:.4f} no {scores.p_no:.4f} maybe {scores.p_maybe:.4f}"


def _apart(left: Scores, right: Scores) -> float:
    return max(abs(left.p_yes - right.p_yes), abs(left.p_no - right.p_no), abs(left.p_maybe - right.p_maybe))


def draw_canary() -> Any:
    """Return the canary's picture: a red circle on white."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (120, 90), "white")
    ImageDraw.Draw(picture).ellipse((40, 25, 80, 65), fill=(214, 34, 34))
    return picture


def _entry(entry: Any) -> KnownAnswer:
    name, caption = entry["image_file"], entry["caption"]
    if not isinstance(name, str) or not name or name != os.path.basename(name) or not isinstance(caption, str):
        raise ValueError(f"image_file must name a file beside it, not {name!r}")
    return KnownAnswer(image_file=name, caption=caption, label=Label(str(entry["label"]).capitalize()))
