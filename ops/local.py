"""Everything in one terminal: Redis, one worker, and their end together. What `up` and `demo` are made of."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from audit.settings import Settings
from audit.urls import redact
from ops.children import child_of, clear_leftovers
from ops.flower_process import FlowerBeside
from ops.hints import typed
from ops.home_lock import HomeLock, only_one
from ops.local_redis import LocalRedis
from ops.tending import POLL_S, TendedWorker
from ops.text import duration
from ops.worker_process import WorkerProcess


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
        self._tended = TendedWorker(settings, start=self._start_worker, show=show)
        self.flower = FlowerBeside(settings, started=self._remember_flower, show=show) if flower else None

    @property
    def worker(self) -> WorkerProcess | None:
        """The one that runs; None while a dead one is not replaced yet."""
        return self._tended.worker

    def start(self) -> None:
        """Clear what a killed predecessor left, then start Redis, the schema and the worker.

        Raises UsageError, Unavailable.
        """
        for child in clear_leftovers(self._lock.leftovers):
            self._show(f"ended a {child.kind} of an earlier run (process {child.pid})")
        if self.redis is not None:
            self._lock.add(child_of("redis", self.redis.start()))
        _ensure_ledger(self.settings)
        self._tended.start()
        if self.flower is not None:
            self.flower.start()

    def tend(self) -> bool:
        """Look after all of them, often. Returns whether the worker is ready to judge.

        Raises WorkerLeft and Unavailable when another start of the worker would not help, Unavailable when Redis died
        and does not come back.
        """
        if self.redis is not None and self.redis.died():
            self._show("Redis ended unexpectedly; starting it again with what its file holds")
            self._lock.add(child_of("redis", self.redis.start()))
        if self.flower is not None:
            self.flower.tend()
        return self._tended.tend()

    def stop(self, at_once: Callable[[], bool]) -> None:
        """Stop the worker, then Redis: what is judged is kept, the rest given back, unless `at_once` comes true."""
        self._tended.stop(patience_s=self.settings.shutdown_grace_s, at_once=at_once)
        if self.flower is not None:
            self.flower.stop()
        if self.redis is not None:
            self.redis.stop()

    def _remember_flower(self, process: "subprocess.Popen[bytes]") -> None:
        self._lock.add(child_of("flower", process))

    def _start_worker(self) -> WorkerProcess:
        worker = WorkerProcess(self.settings)
        self._lock.add(child_of("worker", worker.process))
        return worker


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
