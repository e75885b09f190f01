"""What the doctor says: a line for each thing that was looked at."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


class Topic(StrEnum):
    """What lines are grouped by, and what --only takes."""

    ENVIRONMENT = "environment"
    PYTHON = "python"
    TORCH = "torch"
    DEVICES = "devices"
    MODEL = "model"
    DISK = "disk"
    REDIS = "redis"
    SQL = "sql"
    CLOCK = "clock"
    NETWORK = "network"


class State(StrEnum):
    """`wrong`: something will not work, or does not; `warning`: it works, and may surprise somebody."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that was looked at: what was found, what it means, and what to do about it (empty: nothing)."""

    name: str
    state: State
    found: str
    means: str
    cure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One look. It may hang and may raise anything: it has a thread of its own, and `limit_s` at most."""

    topic: Topic
    name: str
    look: Callable[[], Iterable[Line]]
    limit_s: float


def ok(name: str, found: str, *, means: str = "") -> Line:
    """As it should be."""
    return Line(name=name, state=State.OK, found=found, means=means, cure="")


def warning(name: str, found: str, *, means: str, cure: str) -> Line:
    """Works, and may surprise."""
    return Line(name=name, state=State.WARNING, found=found, means=means, cure=cure)


def wrong(name: str, found: str, *, means: str, cure: str) -> Line:
    """Does not work, or will not."""
    return Line(name=name, state=State.WRONG, found=found, means=means, cure=cure)
