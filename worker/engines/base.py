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

    All of it but the model's name, its parameters and the device is part of the cache's key.
    """

    engine: str
    model: str
    revision: str
    precision: str
    device: str
    prompt: str
    preprocessing: str
    parameters: int = 0  # how many numbers were learned; 0 where nothing was


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What an engine computes on; a measured speed belongs to `name`, memory and software, a lock to `device_id`."""

    name: str
    device_id: str
    memory_bytes: int
    software: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """Bytes: the device's own total and free ones; this process's weights, all it has reserved, and the most so far.

    The peak counts from the last release_memory() on.
    """

    total_bytes: int
    free_bytes: int
    weights_bytes: int
    reserved_bytes: int
    peak_bytes: int


class Engine(Protocol):
    """Same length, same order: one Scores a question."""

    @property
    def card(self) -> EngineCard:
        """What was loaded, for the ledger, the logs and the cache."""
        ...

    @property
    def hardware(self) -> Hardware:
        """What it computes on."""
        ...

    def memory(self) -> DeviceMemory | None:
        """Return the device's memory as it is now; None where it is not worth counting."""
        ...

    def release_memory(self) -> None:
        """Give cached memory back to the device. Not for an except block: the error's frames hold tensors."""
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
