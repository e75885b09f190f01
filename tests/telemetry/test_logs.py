"""Logs under a storm: what Celery says again and again is said once, and counted; what is ours is always said."""

import logging
from collections.abc import Iterator

import pytest

from telemetry.logs import QUIET_S, Repeats


class Clock:
    """Seconds, as the test says."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Lines(logging.Handler):
    """What gets through."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(f"{record.getMessage()}{' x ' + str(record.times) if hasattr(record, 'times') else ''}")


@pytest.fixture
def clock() -> Clock:
    """Stands still."""
    return Clock()


@pytest.fixture
def lines(clock: Clock) -> Iterator[Lines]:
    """Lines of every logger, behind the filter."""
    handler, root = Lines(), logging.getLogger()
    handler.addFilter(Repeats(clock=clock))
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)


def complain(text: str, error: Exception | None = None) -> None:
    logging.getLogger("celery.worker.consumer.consumer").warning(text, exc_info=error)


def test_what_is_said_again_and_again_is_said_once_and_counted(lines: Lines, clock: Clock) -> None:
    """A full Redis at night wrote a gigabyte of one traceback, and what mattered was between two of them."""
    for number in range(200):
        complain("connection lost", OSError(number))  # the error's own text may differ
        complain("too many restarts")
    assert lines.seen == ["connection lost", "too many restarts"]
    clock.now = QUIET_S
    complain("connection lost", OSError())
    assert lines.seen[2:] == ["line repeated x 199", "line repeated x 199", "connection lost"]
    clock.now = 2 * QUIET_S
    complain("another")
    assert lines.seen[5:] == ["another"], "what came once is not counted"


def test_another_error_with_the_same_words_is_said(lines: Lines) -> None:
    """Full, then gone: the second one is news."""
    complain("connection lost", OSError())
    complain("connection lost", ValueError())
    complain("connection lost")
    assert lines.seen == ["connection lost"] * 3


def test_our_own_lines_are_all_said(lines: Lines) -> None:
    """They are events with fields; tests, and people, count them."""
    for _ in range(3):
        logging.getLogger("worker.tasks").warning("chunk released")
        logging.getLogger("celery.apps.worker").info("ready")
    assert lines.seen.count("chunk released") == 3
