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
        if called in MEASURED:
            meters().stage_seconds.labels(called).observe(time.perf_counter() - began)


@contextmanager
def about(**ids: Any) -> Iterator[None]:
    """Every line logged inside, by this thread or by those it gives work to, carries these."""
    with bound_contextvars(**ids):
        yield


class Threads(ThreadPoolExecutor):
    """Threads that go on in the context of whoever gives them work: its ids, and its span."""

    def submit(self, fn: Any, /, *arguments: Any, **named: Any) -> "Future[Any]":
        """As ThreadPoolExecutor's."""
        return super().submit(copy_context().run, fn, *arguments, **named)
