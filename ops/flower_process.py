"""Flower beside the worker of `up`: started, started again when it dies, and never in the way of judging."""

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from audit.settings import Settings
from ops.text import duration
from ops.worker_process import LoggedProcess

FINAL_STATUSES = frozenset({2})
"""Exit statuses that trying again cannot cure: a taken port, a password file that holds none."""
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
STEADY_S = 60.0
GRACE_S = 3.0


class FlowerBeside:
    """Keeps one Flower running. `started` is told of each new process, `show` gets lines for people."""

    def __init__(
        self,
        settings: Settings,
        *,
        started: Callable[["subprocess.Popen[bytes]"], None],
        show: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._started = started
        self._show = show
        self._wait_s = FIRST_WAIT_S
        self._start_at: float | None = None
        self._process: LoggedProcess | None = None
        self.given_up: str | None = None

    def start(self) -> None:
        """Start it; a machine that can start no process any more is the worker's to complain of."""
        self._start_at = None
        try:
            self._process = LoggedProcess(self._settings, "flower", shown=lambda _line: None)
            self._started(self._process.process)
        except OSError as error:
            self._again(f"could not be started ({error.strerror or error})")

    def tend(self) -> None:
        """Look after it, often."""
        if self.given_up is not None:
            return
        if self._process is None:
            if self._start_at is not None and time.monotonic() >= self._start_at:
                self.start()
            return
        status = self._process.left()
        if status is None:
            return
        reason, lived_s = self._process.reason, time.monotonic() - self._process.started_at
        self._process.end()
        self._process = None
        if status in FINAL_STATUSES:
            self.given_up = reason or "Flower left: see logs/flower.log"
            self._show(f"{self.given_up}; judging goes on without it")
            return
        if lived_s > STEADY_S:
            self._wait_s = FIRST_WAIT_S
        what = f"signal {-status}" if status < 0 else f"status {status}"
        self._again(f"ended with {what}{f': {reason}' if reason else ''}")

    def stop(self) -> None:
        """End it; it has nothing to finish."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.process.wait(timeout=GRACE_S)
        self._process.end()
        self._process = None

    def _again(self, what: str) -> None:
        self._show(f"Flower {what}; starting it again in {duration(self._wait_s)}")
        self._start_at = time.monotonic() + self._wait_s
        self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)
