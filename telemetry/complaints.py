"""What OpenTelemetry says of its exporting, in few lines: a receiver that is away would fill the log with tries."""

import logging
import time
from collections.abc import Callable
from functools import cache
from typing import Self, TypeVar

from audit.text import plain
from telemetry.logs import logger

T = TypeVar("T")
log = logger(__name__)
EVERY_S = 60.0
MOST_CHARS = 300
MOST_LINES = 5


def one_line(text: str) -> str:
    """Printable, and not too much of it: it may quote what a server answered."""
    return plain(" ".join(text.split()))[:MOST_CHARS]


class Heard(logging.Handler):
    """Keeps what was said while exporting is set up."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it; of how a variable is to be written, not what stands in it: headers are passwords."""
        of_headers = record.name.startswith("opentelemetry.util")
        self.add(str(record.msg).replace("%s", "***") if of_headers else record.getMessage())

    def tried(self, what: str, work: Callable[[], T]) -> T | None:
        """What `work` returns; None when it fails, with the reason kept: the SDK raises this and that for one value."""
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - as above
            self.add(f"{what}: {error}")
            return None

    def add(self, text: str) -> None:
        """Keep it, once."""
        line = one_line(text)
        if line not in self.lines and len(self.lines) < MOST_LINES:
            self.lines.append(line)


class Complaints(logging.Handler):
    """The first complaint at once; then one line a minute with the last one, how many there were, and spans lost."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._clock = clock
        self._next_at = clock()
        self._said = 0
        self._lost = 0
        self._ailing = False

    @classmethod
    @cache
    def of_this_process(cls) -> Self:
        """The one that spans are counted by."""
        return cls()

    def emit(self, record: logging.LogRecord) -> None:
        """Count it, and tell it if it is time."""
        self._said += 1
        if self._clock() < self._next_at:
            return
        told = {"times": self._said} | ({"spans_lost": self._lost} if self._lost else {})
        self._next_at, self._said, self._ailing = self._clock() + EVERY_S, 0, True
        log.warning("traces not exported", reason=one_line(record.getMessage()), **told)

    def exported(self, spans: int, *, taken: bool) -> None:
        """Note what became of a batch."""
        self.acquire()  # the handler's own lock, which a fork renews; emit is called with it
        try:
            if not taken:
                self._lost += spans
                return
            if not self._ailing:
                return
            lost, self._ailing, self._said, self._lost = self._lost, False, 0, 0
            self._next_at = self._clock()
        finally:
            self.release()
        log.info("traces exported again", spans_lost=lost)
