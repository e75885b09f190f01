"""Celery's soft time limit, kept out of what must not be interrupted.

The limit is a SIGUSR1 whose handler raises between any two lines of Python, in the middle of a transaction too. Masking
the signal in the main thread does not help: the kernel hands it to any thread, and Python runs the handler in the main
one. So the handler is ours, and a section that must end first only notes the signal.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from celery.exceptions import SoftTimeLimitExceeded


class SoftLimit:
    """One process's soft limit; `install` as each chunk begins, since billiard sets its own handler at the start."""

    def __init__(self) -> None:
        self._sections = 0
        self._due = False

    def install(self) -> None:
        """Take the signal, and forget one that came too late for the last chunk."""
        self._due = False
        signal.signal(signal.SIGUSR1, self._fire)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the block end first; raises SoftTimeLimitExceeded behind it if the limit fired meanwhile."""
        self._sections += 1
        try:
            yield
        finally:
            self._sections -= 1
        if self._due and not self._sections:
            self._due = False
            raise SoftTimeLimitExceeded

    def _fire(self, _number: int, _frame: FrameType | None) -> None:
        if self._sections:
            self._due = True
            return
        raise SoftTimeLimitExceeded
