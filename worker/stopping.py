"""The end of a worker: a grace period for what is in hand, none for what only loads.

Children look at the board between two micro-batches and give back what they have not judged; but a pair may take longer
than a service manager waits, and a model may load for longer still. So a thread of the main process ends what does not
end by itself, and gives its chunk back in the ledger, while somebody still knows that nobody died of a pair.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import psutil

from audit.errors import LedgerUnavailable
from audit.holder import Holder, proved_dead, start_ticks, this_process
from db.abandon import abandon
from db.engine import open_database
from telemetry.logs import logger
from worker.board import Board

log = logger(__name__)
LOOK_EVERY_S = 0.1
DEATH_S = 3.0
"""Longest that a killed process is waited for: one in uninterruptible sleep dies when the kernel lets it."""
BUSY_S = 1.0
FAREWELL_S = 3.0
"""Longest that the main process may then take to end by itself: its connection to Redis may be one that hangs."""


class Stopping:
    """A thread that sleeps until the worker is told to stop. `start` it in the main process, `settled` at its end."""

    def __init__(
        self,
        board: Board,
        *,
        slots: int,
        grace_s: float,
        ledger_url: str,
        at_once: Callable[[], bool],
        leave: Callable[[], None],
    ) -> None:
        self._board = board
        self._slots = slots
        self._grace_s = grace_s
        self._ledger_url = ledger_url
        self._at_once = at_once
        self._leave = leave
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stopping", daemon=True)

    def start(self) -> None:
        """Begin to look at the board."""
        self._thread.start()

    def settled(self, *, patience_s: float) -> None:
        """Wait until what was killed is given back; call it when every child has ended."""
        self._settled.wait(patience_s)

    def _run(self) -> None:
        # It looks instead of being told: a signal handler that took a lock here could meet its own thread holding it.
        while not (self._board.draining or self._at_once()):
            time.sleep(LOOK_EVERY_S)
        self._board.drain(now=self._at_once())
        end_at = time.monotonic() + self._grace_s
        try:
            while self._children() and time.monotonic() < end_at and not self._at_once():
                self._end(self._loading(), why="it only loads")
                time.sleep(LOOK_EVERY_S)
            self._give_back(self._end(self._children(), why="the grace period is over"))
        except Exception:
            log.exception("worker stops without giving everything back")
        finally:
            self._settled.set()
        time.sleep(FAREWELL_S)
        self._leave()  # not reached by a main process that has ended by itself

    def _children(self) -> list[int]:
        return [child.pid for child in psutil.Process().children() if start_ticks(child.pid) is not None]

    def _loading(self) -> list[int]:
        ready = set(self._board.ready_pids(self._slots).values())
        return [pid for pid in self._children() if pid not in ready]

    def _end(self, pids: list[int], *, why: str) -> list[Holder]:
        here = this_process()
        ended = [replace(here, pid=pid, started=start_ticks(pid) or 0) for pid in pids]
        for holder in ended:
            log.warning("worker process ended", pid=holder.pid, reason=why)
            try:
                psutil.Process(holder.pid).kill()
            except psutil.NoSuchProcess:
                continue
        return ended

    def _give_back(self, holders: list[Holder]) -> None:
        give_up_at = time.monotonic() + DEATH_S
        while not all(map(proved_dead, holders)) and time.monotonic() < give_up_at:
            time.sleep(LOOK_EVERY_S)
        dead = [holder for holder in holders if proved_dead(holder)]
        if not dead:
            return
        database = open_database(self._ledger_url, busy_s=BUSY_S)
        try:
            chunks = sum(abandon(database, holder) for holder in dead)
            log.info("chunks given back", chunks=chunks, pids=[holder.pid for holder in dead])
        except LedgerUnavailable as error:
            # Whoever sweeps next finds dead holders, and counts a death for each.
            log.warning("chunks not given back", reason=error.detail)
        finally:
            database.close()
