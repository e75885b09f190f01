"""When a worker that has ended is started again, when that is given up, and where it is written down.

The same rules for `up` and for `worker --guard`: growing pauses with jitter, and an end after some restarts without any
progress. What is no use repeating (`FINAL_STATUSES`) is not repeated at all.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from audit.errors import AuditError, Unavailable
from audit.healing_settings import HealingSettings
from ops.text import iso

FINAL_STATUSES = frozenset({2, 69})
"""Exit statuses of a worker that trying again cannot cure: wrong settings, or a model that cannot be loaded."""
MOST_BYTES = 1_000_000
"""Of the list of restarts; an older one of this size is kept beside it."""
CAUSES_TOLD = 3


class WorkerLeft(AuditError):
    """The worker ended, and starting it again would not help."""

    exit_status: ClassVar[int] = 1

    def __init__(self, status: int, reason: str | None) -> None:
        super().__init__("worker_left", f"the worker left with status {status}: {reason or 'see its log'}")
        self.exit_status = status if status > 0 else 1  # type: ignore[misc]  # of this one error, not of the class


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one run of the worker ended: `status` is negative for a signal, `said` what it said last."""

    pid: int
    cause: str
    status: int | None
    said: str | None
    lived_s: float

    @property
    def how(self) -> str:
        """Its status, or the signal's name."""
        if self.status is None or self.status >= 0:
            return f"status {self.status}"
        with suppress(ValueError):
            return signal.Signals(-self.status).name
        return f"signal {-self.status}"


class Restarts:
    """Counts restarts since the last progress, and says how long to wait for the next one."""

    def __init__(
        self,
        settings: HealingSettings,
        *,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),  # noqa: S311 - jitter
    ) -> None:
        self._settings = settings
        self._jitter = jitter
        self._causes: list[str] = []  # of restarts that brought nothing

    @property
    def fruitless(self) -> int:
        """How many restarts in a row brought no progress."""
        return len(self._causes)

    def progressed(self) -> None:
        """The worker works: what ended the ones before it is over."""
        self._causes.clear()

    def wait_s(self, ended: Ended) -> float:
        """Seconds until the next start. Raises Unavailable when there is to be none."""
        tries, settings = len(self._causes), self._settings
        if tries >= settings.guard_tries:
            causes = list(dict.fromkeys([*self._causes, ended.cause]))[-CAUSES_TOLD:]
            said = f"; it said last: {ended.said}" if ended.said else ""
            raise Unavailable(
                "worker_given_up",
                f"the worker was started again {tries} times without progress: {'; '.join(causes)}{said}",
            )
        self._causes.append(ended.cause)
        most_s = settings.guard_longest_wait_s
        return min(settings.guard_first_wait_s * 2.0 ** min(tries, 30), most_s) * self._jitter()


def write_down(home: Path, ended: Ended, *, wait_s: float | None, fruitless: int) -> None:
    """One more line of AUDIT_HOME/logs/restarts.jsonl, for its owner alone; `wait_s` is None when there is no restart.

    A disk that does not take it disturbs nothing.
    """
    told = {
        "at": iso(time.time()),
        "pid": ended.pid,
        "cause": ended.cause,
        "ended": ended.how,
        "said": ended.said,
        "lived_s": round(ended.lived_s, 1),
        "wait_s": None if wait_s is None else round(wait_s, 2),
        "without_progress": fruitless,
    }
    path = home / "logs" / "restarts.jsonl"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size > MOST_BYTES:
                path.replace(path.with_suffix(".jsonl.1"))
            os.write(descriptor, f"{json.dumps(told, ensure_ascii=False)}\n".encode(errors="backslashreplace"))
        finally:
            os.close(descriptor)
