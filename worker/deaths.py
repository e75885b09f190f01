"""What the main process knows of how its children ended, and tells the ledger when it buries their claims.

A pair is named for a death only when the pair can have done it. A segmentation fault, an abort or an exit is the
process's own doing, and so is want of memory when the kernel says that it killed for it; a bare SIGKILL may come from
anybody.
"""

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil
from billiard.pool import EX_RECYCLE

from db.death import Cause, Death, is_stopped
from telemetry.logs import logger
from telemetry.metrics import meters
from worker.board import Board, is_out
from worker.sick import EX_OUT

log = logger(__name__)

Process = tuple[int, int]
"""A process of this host: its id, and its start in clock ticks."""
FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGQUIT})
EX_SICK = 70
"""Exit status of a child that must not judge on; the pool replaces it with one that proves its model first."""
EX_LOAD_FAILED = 71
EX_LET_GO = 72
"""Exit status of a child that held a chunk, lost its ledger and gave up: no pair's doing."""
NOT_THE_SLOTS = frozenset({0, EX_RECYCLE, EX_LET_GO, EX_LOAD_FAILED, EX_OUT})
"""Exit statuses that do not speak against the slot; loads that fail are counted by themselves."""
REMEMBERED = 1_000
NOTICED_S = 10.0
"""So long after the kernel has killed a process its end may be noticed: a large one takes seconds to be taken down."""


class Reason(StrEnum):
    """Why a process had to be replaced, as it is counted."""

    KILLED = "killed"  # by anybody
    OUT_OF_MEMORY = "out_of_memory"  # by the kernel
    CRASHED = "crashed"  # by a signal of its own doing
    EXITED = "exited"
    STUCK = "stuck"
    LIMIT = "limit"
    STOPPED = "stopped"
    LOAD_FAILED = "load_failed"
    SICK = "sick"
    LET_GO = "let_go"
    OUT = "out"


BY_STATUS = {
    EX_LOAD_FAILED: Reason.LOAD_FAILED,
    EX_LET_GO: Reason.LET_GO,
    EX_OUT: Reason.OUT,
    EX_SICK: Reason.SICK,
}


class Deaths:
    """Collected by `ended` in the main thread, read by housekeeping: plain dictionaries, one writer each."""

    def __init__(
        self,
        board: Board,
        slots: int,
        *,
        oom_kills: Callable[[], int] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._slots = slots
        self._oom_kills = oom_kills or kernel_oom_kills
        self._now = now
        self._foretold: dict[int, Cause] = {}
        self._limited: set[int] = set()
        self._known: dict[Process, Death] = {}
        # The kernel's counts of the last seconds, with their times: a kill is noticed late on a busy host.
        self._looks = deque([(now(), self._oom_kills())])

    def watch(self, pool: Any) -> None:
        """Be told by this billiard pool of every child that it has buried; asking again for one pool does nothing."""
        tell = pool.on_process_down
        if getattr(tell, "of_deaths", False):
            return

        def on_process_down(process: Any) -> None:
            self.ended(process.pid, process.exitcode)
            if tell:
                tell(process)

        on_process_down.of_deaths = True  # type: ignore[attr-defined]  # a mark on our own function
        pool.on_process_down = on_process_down

    def limit_fired(self, pid: int) -> None:
        """Celery is about to kill this child for its hard limit."""
        self._foretold[pid] = Cause.STUCK
        self._limited.add(pid)

    def stuck(self, pids: Sequence[int]) -> list[int]:
        """Those that are ours are about to be killed for making no progress: their SIGKILL is not from anybody."""
        mine = [pid for pid in pids if _parent_of(pid) == os.getpid()]
        self._foretold |= {pid: Cause.STOPPED if is_stopped(pid) else Cause.STUCK for pid in mine}
        return mine

    def look(self) -> None:
        """Once a round: note the kernel's count of kills for want of memory."""
        self._looks.append((self._now(), self._oom_kills()))
        while len(self._looks) > 1 and self._looks[1][0] < self._looks[-1][0] - NOTICED_S:
            self._looks.popleft()

    def ended(self, pid: int, exitcode: int | None) -> None:
        """A child has ended, before its replacement takes its place on the board."""
        for slot in range(self._slots):
            news = self._board.news(slot)
            if news.pid == pid:
                death = self._known[(pid, news.ticks)] = self._judge(pid, exitcode, news.hand)
                self._count(slot, exitcode)
                if not self._board.draining and exitcode not in (0, EX_RECYCLE):
                    reason = self._reason(pid, exitcode, death)
                    meters().restarts.labels(reason).inc()
                    log.warning("worker process died", slot=slot, pid=pid, status=exitcode, reason=reason.value)
        self._foretold.pop(pid, None)
        self._limited.discard(pid)
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]

    def known(self) -> Mapping[Process, Death]:
        """How those ended that have ended."""
        return dict(self._known)

    def hands(self) -> Mapping[Process, tuple[int, int]]:
        """Rows that living children have in hand, first and last."""
        slots = [self._board.news(slot) for slot in range(self._slots)]
        return {(news.pid, news.ticks): news.hand for news in slots if news.hand is not None}

    def _count(self, slot: int, exitcode: int | None) -> None:
        if self._board.draining or exitcode in NOT_THE_SLOTS:
            return
        deaths = self._board.died(slot)
        if is_out(deaths):
            log.critical("slot is out", slot=slot, deaths=deaths, cure="look at its device, then start the worker anew")

    def _reason(self, pid: int, exitcode: int | None, death: Death) -> Reason:
        if pid in self._foretold:
            known = Reason.LIMIT if pid in self._limited else Reason.STUCK
            return Reason.STOPPED if death.cause is Cause.STOPPED else known
        if exitcode is None or exitcode in FROM_OUTSIDE:
            return Reason.OUT_OF_MEMORY if death.certain else Reason.KILLED
        return BY_STATUS.get(exitcode) or (Reason.CRASHED if exitcode < 0 else Reason.EXITED)

    def _judge(self, pid: int, exitcode: int | None, hand: tuple[int, int] | None) -> Death:
        foretold = self._foretold.get(pid)
        if foretold is not None:
            return Death(cause=foretold, certain=foretold is Cause.STUCK, hand=hand)
        if exitcode == EX_LET_GO:
            return Death(cause=Cause.LET_GO, certain=False)
        killed = exitcode is None or exitcode in FROM_OUTSIDE
        for_memory = exitcode == -signal.SIGKILL and self._oom_kills() > self._looks[0][1]
        if for_memory:  # one of the kernel's kills explains one death
            self._looks = deque((at, count + 1) for at, count in self._looks)
        return Death(cause=Cause.DIED, certain=for_memory or not killed, hand=hand)


def _parent_of(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).ppid())
    except psutil.Error:
        return None


def kernel_oom_kills() -> int:
    """How many processes this kernel has killed for want of memory, in any cgroup; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
