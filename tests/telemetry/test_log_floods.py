"""Logs under a storm: what Celery says again and again is said once, and counted; what is ours is always said."""

import logging
from collections.abc import Iterator

import pytest

from telemetry.log_floods import LET_THROUGH, MOST_KEYS, QUIET_S, Repeats
from telemetry.log_lines import LineFormatter, as_json
from telemetry.log_text import Cleaner, withholding


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
        told = getattr(record, "told", {})
        self.seen.append(f"{record.getMessage()}{' x ' + str(told['times']) if 'times' in told else ''}")


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
    level = root.level
    root.setLevel(logging.INFO)
    yield handler
    root.setLevel(level)
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


def test_our_own_lines_are_said_until_they_are_a_storm(lines: Lines, clock: Clock) -> None:
    """They are events with fields, which people count; but a folder of broken pictures must not fill the disk."""
    ours = logging.getLogger("worker.tasks")
    for number in range(LET_THROUGH + 30):
        ours.error("pair failed", extra={"told": {"pair": number, "reason": f"out of patience after {number} s"}})
        ours.info("chunk ended")
        logging.getLogger("celery.apps.worker").info("ready")
    assert lines.seen.count("pair failed") == LET_THROUGH
    assert lines.seen.count("chunk ended") == lines.seen.count("ready") == LET_THROUGH + 30
    clock.now = QUIET_S
    ours.info("chunk ended")
    assert lines.seen[-2:] == ["line repeated x 30", "chunk ended"]


def test_a_storm_hides_nothing_else(lines: Lines) -> None:
    """Another event, reason, level, logger or error in the middle of a storm is what somebody looks for."""
    ours = logging.getLogger("worker.tasks")
    for _ in range(100):
        ours.error("pair failed", extra={"told": {"reason": "no room"}})
    lines.seen.clear()
    ours.error("chunk failed")
    ours.error("pair failed", extra={"told": {"reason": "no permission"}})
    ours.warning("pair failed", extra={"told": {"reason": "no room"}})
    logging.getLogger("worker.judging").error("pair failed", extra={"told": {"reason": "no room"}})
    ours.error("pair failed", extra={"told": {"reason": "no room"}}, exc_info=OSError())
    ours.error("pair failed", extra={"told": {"reason": "no room"}})
    assert lines.seen == ["chunk failed"] + ["pair failed"] * 4


def test_what_is_critical_is_always_said(lines: Lines) -> None:
    """Whoever cannot serve says so each time: that is when a person is called."""
    for _ in range(100):
        logging.getLogger("worker.child").critical("model refused")
        logging.getLogger("celery.worker").critical("unrecoverable error")
    assert len(lines.seen) == 200


def test_a_storm_of_ever_new_words_takes_no_memory(clock: Clock) -> None:
    """A hostile text in each line must not grow the worker."""
    filtering = Repeats(clock=clock)
    for number in range(3 * MOST_KEYS):
        words = "".join(chr(97 + int(digit)) for digit in str(number))
        record = logging.LogRecord("kombu", logging.WARNING, "", 0, words, (), None)
        filtering.filter(record)
    assert len(filtering._runs) <= MOST_KEYS + 1


def test_what_is_summed_up_shows_no_caption_and_no_part_of_a_secret(clock: Clock) -> None:
    """It is said later, among other captions and without its digits: by then neither would be known any more."""
    cleaner, foreign, said = Cleaner(("hunter2222",)), logging.getLogger("PIL.plugin"), Lines()
    said.addFilter(Repeats(cleaner, clock=clock))
    said.setFormatter(LineFormatter(as_json, cleaner=cleaner))
    shown: list[str] = []
    said.emit = lambda record: shown.append(said.format(record))  # type: ignore[method-assign]  # as it would be written
    root = logging.getLogger()
    root.addHandler(said)
    try:
        with withholding(["A red dog with 3 bowls jumps over the fence"]):
            for _ in range(2):
                foreign.warning("odd: A red dog with 3 bowls jumps over the fence")
                foreign.warning("AUTH hunter2222 refused\nand more")
        clock.now = QUIET_S
        with withholding(["another caption of another chunk"]):
            foreign.warning("later")
    finally:
        root.removeHandler(said)
    summed = [line for line in shown if "line repeated" in line]
    assert len(summed) == 2
    assert "odd: <caption>" in summed[0]
    assert "AUTH *** refused" in summed[1]
    assert not [line for line in shown if "red dog" in line or "hunter" in line]


def test_a_line_whose_arguments_do_not_fit_raises_nothing() -> None:
    """A filter's error would come out where the library logs, in the middle of a chunk."""
    with pytest.raises(TypeError):
        logging.LogRecord("PIL", logging.WARNING, "", 0, "%d frames", ("many",), None).getMessage()
    filtering = Repeats()
    record = logging.LogRecord("PIL", logging.WARNING, "", 0, "%d frames", ("many",), None)
    assert filtering.filter(record)
    assert not filtering.filter(record)
