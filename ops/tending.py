"""One worker that is kept working: watched, ended when it hangs, and started again. `up` and `worker --guard` do it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from audit.settings import Settings
from ops.restarts import FINAL_STATUSES, Ended, Restarts, WorkerLeft, write_down
from ops.text import duration
from ops.watch import ENDING_S, Watch
from ops.worker_process import WorkerProcess

POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ending:
    cause: str
    kill_at: float


class TendedWorker:
    """`start` makes a new process, `show` gets lines for people, and `restarting` hears of each restart before it."""

    def __init__(
        self,
        settings: Settings,
        *,
        start: Callable[[], WorkerProcess],
        show: Callable[[str], None],
        restarting: Callable[[Ended, float], None] | None = None,
    ) -> None:
        self._settings = settings
        self._start = start
        self._show = show
        self._restarting = restarting or self._show_restart
        self._restarts = Restarts(settings)
        self._watch: Watch | None = None
        self._ending: _Ending | None = None
        self._start_at: float | None = None
        self.worker: WorkerProcess | None = None

    def start(self) -> None:
        """Start it, the first time and again."""
        self.worker, self._start_at, self._ending = self._start(), None, None
        self._watch = Watch(self._settings, self.worker.pid, now=time.monotonic())

    def tend(self) -> bool:
        """Look after it, often. Returns whether it is ready to judge.

        Raises WorkerLeft when it ended with a status that no restart cures, Unavailable after too many restarts.
        """
        now = time.monotonic()
        if self.worker is None or self._watch is None:
            if self._start_at is not None and now >= self._start_at:
                self.start()
            return False
        status = self.worker.left()
        self._show_news(self.worker)
        if self._ending is not None:
            if self.worker.is_gone() or now >= self._ending.kill_at:
                self._end(self.worker, self._ending.cause)
            return False
        if status is not None and status in FINAL_STATUSES:
            raise self._left_for_good(self.worker, status)
        if status is not None:
            what = f"signal {-status}" if status < 0 else f"status {status}"
            self._begin_end(self.worker, f"the worker ended with {what}")
            return False
        cause = self._watch.look(now)
        if self._watch.progressed:
            self._watch.progressed = False
            self._restarts.progressed()
        if cause is not None:
            self._begin_end(self.worker, cause)
            return False
        return self.worker.is_ready()

    def stop(
        self, *, patience_s: float, at_once: Callable[[], bool], ask: Callable[[WorkerProcess], None] | None = None
    ) -> int:
        """Ask it to stop, and kill what is left after `patience_s`, or once `at_once`; returns its exit status."""
        worker = self.worker
        if worker is None:
            return 0
        (ask or WorkerProcess.ask_to_stop)(worker)
        deadline = time.monotonic() + patience_s
        while worker.left() is None and time.monotonic() < deadline and not at_once():
            self._show_news(worker)
            time.sleep(POLL_S)
        status = worker.left()
        worker.end()
        self._show_news(worker)
        self.worker = None
        return 1 if status is None or status < 0 else status

    def _begin_end(self, worker: WorkerProcess, cause: str) -> None:
        """Its pool may give back what it has; a main process that hangs does not ask for it."""
        worker.begin_end()
        self._ending = _Ending(cause=cause, kill_at=time.monotonic() + self._settings.stop_grace_s + ENDING_S)

    def _end(self, worker: WorkerProcess, cause: str) -> None:
        worker.end()
        ended = self._how(worker, cause)
        self._show_news(worker)
        self.worker, self._ending = None, None
        try:
            wait_s = self._restarts.wait_s(ended)
        except Exception:
            self._note(ended, None)
            raise
        self._note(ended, wait_s)
        self._restarting(ended, wait_s)
        self._start_at = time.monotonic() + wait_s

    def _left_for_good(self, worker: WorkerProcess, status: int) -> WorkerLeft:
        worker.end()
        self.worker = None
        self._note(self._how(worker, f"the worker left with status {status}"), None)
        return WorkerLeft(status, worker.reason)

    def _how(self, worker: WorkerProcess, cause: str) -> Ended:
        lived_s = time.monotonic() - worker.started_at
        return Ended(pid=worker.pid, cause=cause, status=worker.left(), said=worker.said, lived_s=lived_s)

    def _note(self, ended: Ended, wait_s: float | None) -> None:
        write_down(self._settings.home, ended, wait_s=wait_s, fruitless=self._restarts.fruitless)

    def _show_restart(self, ended: Ended, wait_s: float) -> None:
        why = f": {ended.said}" if ended.said else ""
        self._show(f"{ended.cause}{why}; starting it again in {duration(wait_s)}")

    def _show_news(self, worker: WorkerProcess) -> None:
        while worker.news:
            self._show(worker.news.popleft())
