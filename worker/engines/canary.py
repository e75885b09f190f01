"""The canary: questions that a loaded engine must answer soundly before it is given anybody's pairs.

Every engine is asked about one drawn picture. A model directory may bring questions with known answers of its own, in
canary.json: a list of {"image_file", "caption", "label"}, pictures beside it.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.errors import EngineFault, ModelRefused
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


def prove(engine: Engine) -> None:
    """Ask the canary questions; raises EngineFault when an answer is unsound, depends on its neighbour, or is wrong.

    Unsound scores (not finite, not summing to 1) cannot be made into Scores at all: engines raise EngineFault.
    """
    picture = engine.prepare(draw_canary())
    question = Question(image=picture, caption=CAPTION)
    neighbour = Question(image=picture, caption=LONGER_CAPTION)
    alone = engine.judge([question])[0]
    together = engine.judge([question, neighbour])
    if len(together) != 2 or _apart(alone, together[0]) > TOLERANCES.get(engine.card.precision, TOLERANCE):
        raise EngineFault(
            "canary_failed", f"the canary's answer changes with its neighbour: {alone}, then {together[:1]}"
        )
    _prove_known(engine, engine.known_answers())


def prove_pass(engine: Engine, *, size: int) -> None:
    """Ask the canary question `size` times in one pass; raises EngineFault when an answer is another than alone."""
    question = Question(image=engine.prepare(draw_canary()), caption=CAPTION)
    alone = engine.judge([question])[0]
    together = engine.judge([question] * size)
    allowed = TOLERANCES.get(engine.card.precision, TOLERANCE)
    if len(together) != size or any(_apart(alone, answer) > allowed for answer in together):
        raise EngineFault("canary_failed", f"the canary's answer changes in a pass of {size}")


def _prove_known(engine: Engine, known: Sequence[tuple[Question, Label]]) -> None:
    for question, label in known:
        answer = engine.judge([question])[0].label
        if answer is not label:
            raise EngineFault(
                "canary_failed", f"{question.caption!r} of canary.json is {label}, but was judged {answer}"
            )


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
