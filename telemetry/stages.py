"""One word a stage: what the work says of itself, for the logs, the metrics and the traces at once.

with about(batch=7, chunk=3, attempt=1):
    with stage("ledger", "claim"):
        ...
    with stage("inference", pairs=16) as seen:
        ...
        seen.tell(tokens=240)
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, Literal, ParamSpec, TypeVar

from structlog.contextvars import bound_contextvars

from telemetry.metrics import meters
from telemetry.traces import Seen, span

P = ParamSpec("P")
T = TypeVar("T")
Stage = Literal["model_loading", "preprocess", "inference", "postprocess", "queue", "ledger"]
MEASURED = frozenset({"claim", "record", "postprocess"})
"""Timed as they pass; what preprocess and inference take is in the outcomes, a pair's share each."""
_SPENT: ContextVar["list[tuple[str, float]] | None"] = ContextVar("spent", default=None)
STAGE: ContextVar[str | None] = ContextVar("stage", default=None)
"""Of whatever this thread does at the moment."""


@contextmanager
def stage(name: Stage, part: str = "", **told: Any) -> Iterator[Seen]:
    """A part of the work, called `part` where a stage has several; what is told of it stands on its span.

    An exception is noted on the span, and goes on.
    """
    called = part or name
    token, began = STAGE.set(name), time.perf_counter()
    try:
        with span(called, **told) as seen:
            yield seen
    finally:
        STAGE.reset(token)
        took_s, spent = time.perf_counter() - began, _SPENT.get()
        if spent is not None:
            spent.append((called, took_s))
        if called in MEASURED:
            meters().stage_seconds.labels(called).observe(took_s)


@contextmanager
def about(**ids: Any) -> Iterator[None]:
    """Every line logged inside, by this thread or by those it gives work to, carries these."""
    with bound_contextvars(**ids):
        yield


@contextmanager
def adding_up() -> Iterator[None]:
    """What the stages within take, by this thread or by those it gives work to, is kept for milliseconds()."""
    token = _SPENT.set([])
    try:
        yield
    finally:
        _SPENT.reset(token)


def milliseconds() -> dict[str, float]:
    """By the names of the stages so far; those of several threads are summed up."""
    spent: dict[str, float] = {}
    for called, took_s in _SPENT.get() or ():
        spent[called] = spent.get(called, 0.0) + took_s * 1000
    return {called: round(took_ms, 1) for called, took_ms in spent.items()}


class Threads(ThreadPoolExecutor):
    """Threads that go on in the context of whoever gives them work: its ids, and its span."""

    def submit(self, fn: Any, /, *arguments: Any, **named: Any) -> "Future[Any]":
        """As ThreadPoolExecutor's."""
        return super().submit(copy_context().run, fn, *arguments, **named)
