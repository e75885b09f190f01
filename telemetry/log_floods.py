"""A storm of equal complaints: some are let through, the rest is summed up in one line."""

import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress

from telemetry.log_text import Cleaner, words_of

QUIET_S = 30.0
OURS = ("audit", "db", "demo", "ops", "producer", "telemetry", "worker")
LET_THROUGH, OF_OTHERS = 20, 1
"""So many of ours within QUIET_S, which are events with fields, and of Celery's, which bring 4 kB of traceback."""
MOST_KEYS = 1_000
SUMMED_UP = "line repeated"

_NUMBERS = re.compile(r"[0-9a-f]{12,}|\d+", re.IGNORECASE)
Key = tuple[str, int, str, type | None]


class Repeats(logging.Filter):
    """Of equal warnings and errors, lets the first ones of every QUIET_S through and says how many there were more.

    Celery connects anew several times a second while a full Redis refuses it; a folder of broken pictures fails one
    pair after the other. Equal are those with the same logger, level, event (and reason) but for numbers, and type of
    error: ids may differ. What is CRITICAL is always said.

    What is kept of a line is cleaned at once: when it is summed up other captions are in hand, and a secret without its
    digits would not be known any more.
    """

    def __init__(self, cleaner: Cleaner | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._cleaner = cleaner or Cleaner()
        self._clock = clock
        self._runs: dict[Key, tuple[float, int]] = {}  # when the first one came, and how many came; oldest first

    def filter(self, record: logging.LogRecord) -> bool:
        """Without a lock, which a fork could copy while it is held: two threads at once may miscount."""
        if record.msg is SUMMED_UP:
            return True
        now = self._clock()
        self._tell(now)
        if not logging.WARNING <= record.levelno < logging.CRITICAL:
            return True
        key = self._key(record)
        first_at, count = self._runs.get(key, (now, 0))
        self._runs[key] = (first_at, count + 1)
        return count < _most(record.name)

    def _key(self, record: logging.LogRecord) -> Key:
        told = getattr(record, "told", {})
        words = self._cleaner.text(f"{words_of(record)} {told.get('reason', '')} {told.get('code', '')}")
        error = record.exc_info[0] if record.exc_info else None
        key = (record.name, record.levelno, _NUMBERS.sub("#", words), error)
        return key if key in self._runs or len(self._runs) < MOST_KEYS else (record.name, record.levelno, "", None)

    def _tell(self, now: float) -> None:
        """The rest of each run that is over; with whatever line comes next."""
        with suppress(RuntimeError, StopIteration):  # none is left, or another thread has just changed them
            while now - self._runs[key := next(iter(self._runs))][0] >= QUIET_S:
                _, count = self._runs.pop(key, (0.0, 0))
                more = count - _most(key[0])
                if more > 0:
                    line = key[2].partition(r"\n")[0].strip()
                    told = {"line": line, "of": key[0], "times": more, "within_s": QUIET_S}
                    logging.getLogger(__name__).warning(SUMMED_UP, extra={"told": told})


def is_ours(name: str) -> bool:
    """Whether the logger is one of ours, and no library's."""
    return name.partition(".")[0] in OURS


def _most(name: str) -> int:
    return LET_THROUGH if is_ours(name) else OF_OTHERS
