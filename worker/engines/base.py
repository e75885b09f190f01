"""What every engine offers: a model, loaded once a process, that answers for pictures and captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from audit.verdict import Label, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One pair as the engine sees it: decoded pixels and text.

    `image` is a PIL image of mode RGB, already upright and without alpha; `caption` and `premise` are the user's own
    text, cleaned of control characters; the engine applies the model's own clean-up, prompt and truncation.
    """

    image: Any
    caption: str
    premise: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCard:
    """What the ledger and the logs say about a loaded engine.

    All of it but the model's name and the device is part of the cache's key.
    """

    engine: str
    model: str
    revision: str
    precision: str
    device: str
    prompt: str
    preprocessing: str


class Engine(Protocol):
    """Same length, same order: one Scores a question."""

    @property
    def card(self) -> EngineCard:
        """What was loaded, for the ledger, the logs and the cache."""
        ...

    def text_flags(self, caption: str, premise: str | None) -> tuple[str, ...]:
        """Flags of an accepted text, such as `caption_truncated`.

        Raises BadCaption (`caption_empty`) when the model's own clean-up leaves nothing to judge.
        """
        ...

    def prepare(self, image: Any) -> Any:
        """Pixels as the model wants them, from an RGB picture; safe to call in several threads at once."""
        ...

    def known_answers(self) -> Sequence[tuple[Question, Label]]:
        """Questions whose labels are known, for the canary; empty when the model brings none."""
        ...

    def judge(self, questions: Sequence[Question]) -> list[Scores]:
        """Judge B questions in one pass; `Question.image` may be what prepare() returned.

        Raises EngineFault (scores not finite), OutOfDeviceMemory, PoisonedProcess; never a label for an error.
        """
        ...
