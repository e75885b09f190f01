"""Everything in one terminal: Redis, one worker, and their end together. What `up` and `demo` are made of."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ClassVar

from audit.errors import AuditError
from audit.settings import Settings
from audit.urls import redact
from ops.children import child_of, clear_leftovers
from ops.flower_process import FlowerBeside
from ops.hints import typed
from ops.home_lock import HomeLock, only_one
from ops.local_redis import LocalRedis
from ops.text import duration
from ops.worker_process import WorkerProcess

POLL_S = 0.1
FINAL_STATUSES = frozenset({2, 69})
"""Exit statuses of a worker that trying again cannot cure: wrong settings, or a model that cannot be loaded."""
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
STEADY_S = 60.0
"""A worker that lived so long died of something new: the waiting starts anew."""


class WorkerLeft(AuditError):
    """The worker ended, and starting it again would not help."""

    exit_status: ClassVar[int] = 1

    def __init__(self, status: int, reason: str | None) -> None:
        super().__init__("worker_left", f"the worker left with status {status}: {reason or 'see its log'}")
        self.exit_status = status if status > 0 else 1  # type: ignore[misc]  # of this one error, not of the class


class Stopping:
    """Whether somebody asked this process to stop: TERM, HUP or Ctrl-C; a second time means at once."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        self.asked += 1


class LocalSystem:
    """Redis (unless REDIS_URL is set), one worker and perhaps Flower; `show` gets lines for people."""

    def __init__(self, settings: Settings, lock: HomeLock, *, show: Callable[[str], None], flower: bool) -> None:
        self.settings = settings
        self.redis = None if settings.redis_url else LocalRedis(settings)
        self._lock = lock
        self._show = show
        self.worker: WorkerProcess | None = None
        self.flower = FlowerBeside(settings, started=self._remember_flower, show=show) if flower else None
        self._wait_s = FIRST_WAIT_S
        self._start_at: float | None = None

    def start(self) -> None:
        """Clear what a killed predecessor left, then start Redis, the schema and the worker.

        Raises UsageError, Unavailable.
        """
        for child in clear_leftovers(self._lock.leftovers):
            self._show(f"ended a {child.kind} of an earlier run (process {child.pid})")
        if self.redis is not None:
            self._lock.add(child_of("redis", self.redis.start()))
        _ensure_ledger(self.settings)
        self._start_worker()
        if self.flower is not None:
            self.flower.start()

    def tend(self) -> bool:
        """Look after the worker, often: restart it when it died. Returns whether it is ready to judge.

        Raises WorkerLeft when another start would not help, Unavailable when Redis died and does not come back.
        """
        if self.redis is not None and self.redis.died():
            self._show("Redis ended unexpectedly; starting it again with what its file holds")
            self._lock.add(child_of("redis", self.redis.start()))
        if self.flower is not None:
            self.flower.tend()
        if self.worker is None:
            if self._start_at is not None and time.monotonic() >= self._start_at:
                self._start_worker()
            return False
        status = self.worker.left()
        self._show_news()
        if status is None:
            return self.worker.is_ready()
        if status in FINAL_STATUSES:
            raise WorkerLeft(status, self.worker.reason)
        if time.monotonic() - self.worker.started_at > STEADY_S:
            self._wait_s = FIRST_WAIT_S
        why = f": {self.worker.reason}" if self.worker.reason else ""
        what = f"signal {-status}" if status < 0 else f"status {status}"
        self._show(f"the worker ended with {what}{why}; starting it again in {duration(self._wait_s)}")
        self.worker.end()  # its pool processes
        self.worker, self._start_at = None, time.monotonic() + self._wait_s
        self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)
        return False

    def stop(self, at_once: Callable[[], bool]) -> None:
        """Stop the worker, then Redis: what is judged is kept, the rest given back, unless `at_once` comes true."""
        if self.worker is not None:
            self.worker.ask_to_stop()
            deadline = time.monotonic() + self.settings.shutdown_grace_s
            while self.worker.left() is None and time.monotonic() < deadline and not at_once():
                self._show_news()
                time.sleep(POLL_S)
            self.worker.end()
            self._show_news()
        if self.flower is not None:
            self.flower.stop()
        if self.redis is not None:
            self.redis.stop()

    def _show_news(self) -> None:
        while self.worker is not None and self.worker.news:
            self._show(self.worker.news.popleft())

    def _remember_flower(self, process: "subprocess.Popen[bytes]") -> None:
        self._lock.add(child_of("flower", process))

    def _start_worker(self) -> None:
        self.worker, self._start_at = WorkerProcess(self.settings), None
        self._lock.add(child_of("worker", self.worker.process))


@contextmanager
def local_system(
    settings: Settings, command: str, *, show: Callable[[str], None], flower: bool = False
) -> Iterator[tuple[LocalSystem, Stopping]]:
    """A started system under the home's lock; stopped at the end, whatever happens.

    Raises Permanent (`already_running`), UsageError, Unavailable.
    """
    stopping = Stopping()
    with only_one(settings.home, command) as lock:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, stopping)
        system = LocalSystem(settings, lock, show=show, flower=flower)
        try:
            system.start()
            yield system, stopping
        finally:
            asked = stopping.asked
            system.stop(at_once=lambda: stopping.asked > max(asked, 1))


def up(settings: Settings, *, flower: bool = True) -> int:
    """Run until Ctrl-C; returns the exit status. Raises what local_system and tend raise."""

    def show(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with local_system(settings, "up", show=show, flower=flower) as (system, stopping):
        told = False
        show("starting: the worker loads its model")
        while not stopping.asked:
            if system.tend() and not told:
                told = True
                print("\n".join(listening(settings, system)), flush=True)
            time.sleep(POLL_S)
        show(f"stopping: the worker has {duration(settings.shutdown_grace_s)} to finish (Ctrl-C again: at once)")
    show("stopped; the ledger and the queue are kept")
    return 0


def listening(settings: Settings, system: LocalSystem) -> list[str]:
    """What runs and where, and what to do next."""
    redis = f"unix:{system.redis.socket}" if system.redis else redact(settings.broker_url)
    slots = system.worker.slots_ready()[1] if system.worker else 0
    return [
        "caption-audit is up",
        f"  model   {settings.model_name}, {slots} slot{'s' * (slots != 1)}",
        f"  redis   {redis}",
        f"  ledger  {redact(settings.ledger_url)}",
        f"  logs    {settings.home / 'logs'}",
        *_flower_line(settings, system),
        f"  next    {typed('submit FILE --watch', settings)}   (another terminal; Ctrl-C here stops)",
    ]


def _flower_line(settings: Settings, system: LocalSystem) -> list[str]:
    from ops.flower_server import address, sign_in

    if system.flower is None:
        return []
    where = system.flower.given_up and "not running"
    return [f"  flower  {where or f'{address(settings)} ({sign_in(settings)})'}"]


def _ensure_ledger(settings: Settings) -> None:
    from db.engine import open_database
    from db.schema import ensure_schema

    database = open_database(settings.ledger_url)
    try:
        ensure_schema(database)
    finally:
        database.close()
