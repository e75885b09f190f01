"""What a worker's main process does once a second: sweep dead claims, end hanging children, top up Redis.

It is a thread, and the main process forks: a fork in the middle of a round would copy held locks and open connections
into the child. So forks wait for the end of a round, and no connection outlives one.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from audit.errors import BrokerUnavailable, LedgerUnavailable
from audit.message import Lane
from audit.redis_lists import Lying
from audit.settings import Settings
from db.engine import Database, open_database
from db.feed import Doorbell, Window, feed, overdue_lanes, unsend
from db.sweep import Buried, Rules, sweep
from telemetry.logs import logger
from telemetry.metrics import meters

T = TypeVar("T")
log = logger(__name__)
BUSY_S = 1.0
"""A round does not wait long for a locked SQLite file: forks wait for the round, and the next one comes in a second."""
SILENT_S = 10.0
"""A ledger that says nothing for so long is away; above its lock timeout (5 s)."""
KNOCK_EVERY_S = 5.0
"""A worker that has nothing to send would else not know for hours that its Redis is away."""
FORK_WAIT_S = 20.0
"""Longest that a fork waits for a round to end; above the ledger's connect timeout (5 s) and the longest silence."""


class Bell(Protocol):
    """Sends doorbells."""

    def __call__(self, doorbells: list[Doorbell]) -> None:
        """Raises BrokerUnavailable when they could not all be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """How the rounds are made: the settings, the model's name, how many slots, and ways to Redis and into the pool."""

    settings: Settings
    model: str
    slots: int
    ring: Bell
    knock: Callable[[], None]  # asks whether Redis is there
    lying: Callable[[frozenset[Lane]], Mapping[Lane, Lying]]  # what waits in Redis
    nobody_works: Callable[[], bool]  # no child has a chunk in hand, though one could
    reconnect: Callable[[], None]  # makes Celery's consumer connect to Redis anew
    stuck: Callable[[], list[int]]  # pids of children that make no progress
    rules: Callable[[bool], Rules]  # of the sweep, given whether leases can be trusted
    recall: Callable[[Database], None]  # asks children for chunks of batches that were cancelled
    check: Callable[[], None]  # looks at the board; may ask the worker to leave
    give_way: Callable[[Database], None]  # asks a child to make room for what is more urgent
    tell: Callable[[Database], None]  # tells the ledger how the slots are, now and then; raises nothing


class Housekeeper:
    """The thread. `start` it once in the main process; `stop` waits for the round at hand."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)
        # A worker that has just started knows nothing of what was before: it trusts leases after one lease.
        self._doubted_at: float = time.monotonic()
        self._round_at: float = time.time()
        self._deaf_since: float | None = None
        self._complained: str | None = None
        self._knocked_at: float | None = None
        self.redis_away: str | None = None  # why, as last seen
        self.ledger_away: str | None = None
        self._round_ended = False
        self._database: Database | None = None
        self._killed: frozenset[int] = frozenset()
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child)
        self._fork_held = False

    @property
    def waits(self) -> str | None:
        """What the rounds wait for, in words; None while all is well."""
        return self._complained

    def start(self) -> None:
        """Begin the rounds."""
        self._thread.start()

    def stop(self) -> None:
        """End them: a worker that is shutting down must not feed itself."""
        self._stopped.set()

    def last_words(self, part: Callable[[Database], None]) -> None:
        """At the very end, once more to the ledger, unless it did not answer lately: nobody waits for that."""
        if self.ledger_away is None and self._round_ended and self._lock.acquire(timeout=BUSY_S):
            try:
                self._with_ledger(part)
            except LedgerUnavailable as error:
                log.debug("last words not heard", reason=error.detail)
            finally:
                self._lock.release()

    def _run(self) -> None:
        every_s = self._rounds.settings.feed_every_s
        # Jitter: the workers of a fleet that started together must not knock on the ledger together.
        while not self._stopped.wait(every_s * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter
            with self._lock:
                self._round()

    def _round(self) -> None:
        """One round; whatever goes wrong in a part of it, the other parts are done and the thread lives on."""
        try:
            self._rounds.check()
            if not self._stopped.is_set():
                self._look_at_clock()
                bells = self._with_ledger(self._sweep_tell_and_feed)
                self.ledger_away = None
                # No connection is open while Redis is waited for, so that a fork meanwhile inherits none.
                self._ring(bells)
                self._knock()
                self._complain(self.redis_away)  # between two knocks it is as it was at the last one
                self._round_ended = True
        except LedgerUnavailable as error:
            self._doubted_at = time.monotonic()
            self.ledger_away = error.detail
            self._complain(error.detail)
        except BrokerUnavailable as error:
            self.ledger_away, self.redis_away = None, error.detail
            self._complain(error.detail)
        except Exception:
            log.exception("housekeeping failed")

    def _look_at_clock(self) -> None:
        """After a pause of the whole machine every lease looks ended, though nobody had time to renew it."""
        now = time.time()
        if now - self._round_at > self._rounds.settings.lease_s / 2:
            self._doubted_at = time.monotonic()
        self._round_at = now

    def _with_ledger(self, part: Callable[[Database], T]) -> T:
        if self._database is None:
            self._database = open_database(self._rounds.settings.ledger_url, busy_s=BUSY_S, silent_s=SILENT_S)
        try:
            return part(self._database)
        finally:
            # Its connections alone. The statements that SQLAlchemy has put together stay: two thirds of a round's time.
            self._database.close()

    def _sweep_tell_and_feed(self, database: Database) -> list[Doorbell]:
        self._sweep(database)
        self._rounds.recall(database)
        self._rounds.tell(database)
        return self._feed(database)

    def _sweep(self, database: Database) -> None:
        settings = self._rounds.settings
        trust_leases = time.monotonic() - self._doubted_at > settings.lease_s
        try:
            for buried in sweep(database, self._rounds.rules(trust_leases)):
                self._report(buried)
        except LedgerUnavailable:
            raise
        except Exception:
            log.exception("sweep failed", stage="ledger")  # one odd row must not keep the others from being fed
        if trust_leases:
            self._kill_stuck()

    def _kill_stuck(self) -> None:
        """They can write nothing any more (their leases have ended), but they hold a slot and perhaps a GPU."""
        stuck = frozenset(self._rounds.stuck())
        for pid in stuck - self._killed:  # it stands on the board until its successor takes the place
            log.warning("stuck process killed", pid=pid)
            with suppress(ProcessLookupError):  # it may have left meanwhile
                os.kill(pid, signal.SIGKILL)
        self._killed = stuck

    def _feed(self, database: Database) -> list[Doorbell]:
        settings, model = self._rounds.settings, self._rounds.model
        self._rounds.give_way(database)
        overdue = overdue_lanes(database, model=model, resend_s=settings.resend_s)
        lying = self._rounds.lying(overdue) if overdue else {}
        self._listen(deaf=any(there.messages for there in lying.values()) and self._rounds.nobody_works())
        window = Window(chunks=settings.feed_chunks_per_slot * self._rounds.slots, slots=self._rounds.slots)
        return feed(database, model=model, window=window, resend_s=settings.resend_s, lying=lying)

    def _listen(self, *, deaf: bool) -> None:
        """Messages wait in Redis and every child is idle: after a broken connection Celery's consumer can be deaf."""
        now = time.monotonic()
        if not deaf:
            self._deaf_since = None
        elif self._deaf_since is None:
            self._deaf_since = now
        elif now - self._deaf_since > self._rounds.settings.resend_s / 2:
            log.warning("consumer is deaf, connecting anew")
            self._deaf_since = None
            self._rounds.reconnect()

    def _ring(self, bells: list[Doorbell]) -> None:
        if not bells:
            return
        try:
            self._rounds.ring(bells)
            for bell in bells:
                if bell.again:
                    meters().chunks_resent.labels(bell.lane.value).inc()
            self.redis_away = None
        except BrokerUnavailable:
            self._with_ledger(lambda database: unsend(database, bells))
            raise

    def _knock(self) -> None:
        """Now and then: one that hangs holds a round up for seconds."""
        if self._knocked_at is not None and time.monotonic() - self._knocked_at < KNOCK_EVERY_S:
            return
        try:
            self._rounds.knock()
        finally:
            self._knocked_at = time.monotonic()
        self.redis_away = None

    def _report(self, buried: Buried) -> None:
        told = {
            "batch": buried.batch,
            "chunk": buried.chunk,
            "attempt": buried.attempt,
            "pid": buried.holder.pid,
            "cause": buried.cause.value,
            "stage": "ledger",
        }
        if buried.named:
            meters().failures.labels(buried.named).inc()
        if buried.parked:
            meters().chunks_parked.inc()
            log.error("chunk parked", cure="mend what the log names, then: caption-audit sweep --parked", **told)
        else:
            log.warning("claim taken over", **told)

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
        self._stopped = threading.Event()  # the thread may have been in the old one, with its lock
        self._stopped.set()
