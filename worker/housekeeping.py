"""What a worker's main process does once a second: sweep dead claims, end hanging children, top up Redis.

It is a thread, and the main process forks: a fork in the middle of a round would copy held locks and open connections
into the child. So forks wait for the end of a round, and no connection outlives one.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from audit.errors import BrokerUnavailable, LedgerUnavailable
from audit.settings import Settings
from db.death import Cause
from db.engine import Database, open_database
from db.feed import Doorbell, feed, unsend
from db.sweep import Buried, Rules, sweep
from worker.telemetry import logger

log = logger(__name__)
BUSY_S = 1.0
"""A round does not wait long for a locked SQLite file: forks wait for the round, and the next one comes in a second."""
FORK_WAIT_S = 15.0
"""Longest that a fork waits for a round to end; above the ledger's connect timeout (5 s), below any patience."""


class Bell(Protocol):
    """Sends doorbells."""

    def __call__(self, doorbells: list[Doorbell]) -> None:
        """Raises BrokerUnavailable when they could not all be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """How the rounds are made: the settings, the model's name, how many slots, and ways into the pool."""

    settings: Settings
    model: str
    slots: int
    ring: Bell
    is_child: Callable[[int], bool]
    overdue: Callable[[], frozenset[int]]  # pids of children that Celery's hard limit has killed
    check: Callable[[], None]  # looks at the board; may ask the worker to leave


class Housekeeper:
    """The thread. `start` it once in the main process; `stop` waits for the round at hand."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        self._ledger_lost_at: float | None = None
        self._complained: str | None = None
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child)
        self._fork_held = False

    def start(self) -> None:
        """Begin the rounds."""
        self._thread.start()

    def stop(self) -> None:
        """End them: a worker that is shutting down must not feed itself."""
        self._stopped.set()

    def _run(self) -> None:
        every_s = self._rounds.settings.feed_every_s
        # Jitter: the workers of a fleet that started together must not knock on the ledger together.
        while not self._stopped.wait(every_s * random.uniform(0.8, 1.2)):  # noqa: S311
            with self._lock:
                self._round()

    def _round(self) -> None:
        self._rounds.check()
        if self._stopped.is_set():
            return
        database = open_database(self._rounds.settings.ledger_url, busy_s=BUSY_S)
        try:
            self._sweep(database)
            self._feed(database)
            self._complain(None)
        except LedgerUnavailable as error:
            self._ledger_lost_at = time.monotonic()
            self._complain(error.detail)
        except BrokerUnavailable as error:
            self._complain(error.detail)
        except Exception:
            log.exception("housekeeping failed")  # the thread must outlive any bug: without it nothing is fed
        finally:
            database.close()

    def _sweep(self, database: Database) -> None:
        settings, lost_at = self._rounds.settings, self._ledger_lost_at
        # After an outage every lease looks ended, though its holder only could not reach the ledger to renew it.
        trust_leases = lost_at is None or time.monotonic() - lost_at > settings.lease_s
        rules = Rules(max_deaths=settings.max_attempts, trust_leases=trust_leases, overdue=self._rounds.overdue())
        for buried in sweep(database, rules):
            self._report(buried)
            if buried.cause is Cause.STUCK and self._rounds.is_child(buried.holder.pid):
                # It can write nothing any more (its token is void), but it holds a slot and perhaps a GPU.
                os.kill(buried.holder.pid, signal.SIGKILL)

    def _report(self, buried: Buried) -> None:
        told = {"batch": buried.batch, "chunk": buried.chunk, "pid": buried.holder.pid, "cause": buried.cause.value}
        if buried.parked:
            log.error("chunk parked", cure="mend what the log names, then: caption-audit sweep --parked", **told)
        else:
            log.warning("claim taken over", **told)

    def _feed(self, database: Database) -> None:
        settings = self._rounds.settings
        window = settings.feed_chunks_per_slot * self._rounds.slots
        bells = feed(database, model=self._rounds.model, window=window, resend_s=settings.resend_s)
        if not bells:
            return
        try:
            self._rounds.ring(bells)
        except BrokerUnavailable:
            unsend(database, bells)
            raise

    def _complain(self, what: str | None) -> None:
        """Say that something is away when it goes and when it is back, not every second."""
        if what and what != self._complained:
            log.warning("housekeeping waits", reason=what)
        elif self._complained and not what:
            log.info("housekeeping goes on")
        self._complained = what

    def _before_fork(self) -> None:
        # The housekeeping thread itself starts no processes; were it to, it must not wait for itself.
        mine = threading.current_thread() is self._thread
        self._fork_held = not mine and self._lock.acquire(timeout=FORK_WAIT_S)

    def _after_fork(self) -> None:
        if self._fork_held:
            self._fork_held = False
            self._lock.release()

    def _in_child(self) -> None:
        self._lock = threading.Lock()
        self._stopped.set()
