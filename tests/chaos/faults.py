"""The faults of processes and servers: each strikes what works at that moment, and says when it is over."""

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import psutil

from audit.holder import start_ticks
from tests.chaos.queues import MESSAGE_FAULTS, Queues
from tests.chaos.stage import Holding, Stage
from tests.chaos.supervisor import Post


@dataclass(slots=True, kw_only=True)
class Struck:
    """One fault that happened, with a chunk running at that moment; times are those of the wall clock."""

    kind: str
    at: float
    over_at: float
    holding: Holding | None = None
    """What the victim had in hand; None where no process was struck."""
    cost_processes: tuple[Holding, ...] = ()
    """Chunks whose process was killed by it."""
    detail: str = ""


@dataclass(slots=True, kw_only=True)
class Undo:
    """What ends a pause, at its time or before the next fault of the same thing."""

    what: str
    due: float
    act: Callable[[], None]
    struck: Struck


@dataclass(slots=True, kw_only=True)
class Rainmaker:
    """Strikes. A method returns None when there was nothing to strike."""

    stage: Stage
    rng: Random
    lease_s: float
    undos: list[Undo] = field(default_factory=list)

    def strike(self, kind: str, held: list[Holding]) -> Struck | None:
        """One fault of that kind, with these chunks in hand right now."""
        now = time.time()
        struck = Struck(kind=kind, at=now, over_at=now)
        if kind in MESSAGE_FAULTS:
            self.settle("redis")
            struck.detail = MESSAGE_FAULTS[kind](Queues(stage=self.stage, rng=self.rng))
            happened = bool(struck.detail)
        else:
            act: Callable[[Struck, list[Holding]], bool] = getattr(self, f"_{kind}")
            happened = act(struck, held)
        if not happened:
            return None
        struck.over_at = max(struck.over_at, time.time())
        return struck

    def settle(self, what: str | None = None, *, due_by: float | None = None) -> None:
        """End pauses: all, those of one thing, or those that are due."""
        for undo in [*self.undos]:
            if (what is None or undo.what == what) and (due_by is None or undo.due <= due_by):
                self.undos.remove(undo)
                with suppress(ProcessLookupError):
                    undo.act()
                undo.struck.over_at = time.time()

    def _child_killed(self, struck: Struck, held: list[Holding]) -> bool:
        victim = self._victim(struck, held)
        if victim is None:
            return False
        struck.cost_processes = (victim,)
        os.kill(victim.pid, signal.SIGKILL)
        return True

    def _child_paused(self, struck: Struck, held: list[Holding]) -> bool:
        victim = self._victim(struck, held)
        if victim is None:
            return False
        struck.cost_processes = (victim,)  # its own main process kills it as stuck
        os.kill(victim.pid, signal.SIGSTOP)
        pause_s = self.lease_s * self.rng.uniform(1.1, 1.6)
        self._later(f"pid {victim.pid}", pause_s, lambda: _continue(victim.pid, victim.started), struck)
        return True

    def _worker_killed(self, struck: Struck, held: list[Holding]) -> bool:
        return self._end_main(struck, held, lambda post: self.stage.supervisor.kill(post, whole=True))

    def _main_killed(self, struck: Struck, held: list[Holding]) -> bool:
        alone = self.rng.random() < 0.5
        struck.detail = "children left to themselves" if alone else "its group cleared by the supervisor"
        return self._end_main(
            struck, held, lambda post: self.stage.supervisor.kill(post, whole=False, leave_children=alone)
        )

    def _deploy(self, struck: Struck, held: list[Holding]) -> bool:
        done = self._end_main(struck, held, self.stage.supervisor.deploy)
        struck.cost_processes = ()  # nobody is to die of it
        return done

    def _main_paused(self, struck: Struck, held: list[Holding]) -> bool:
        victim = self._victim(struck, held)
        if victim is None or victim.post is None:
            return False
        pid = victim.post.worker.process.pid
        started = start_ticks(pid)
        os.kill(pid, signal.SIGSTOP)
        self._later(
            f"pid {pid}", self.lease_s * self.rng.uniform(0.5, 1.6), lambda: _continue(pid, started or 0), struck
        )
        return True

    def _redis_killed(self, struck: Struck, _held: list[Holding]) -> bool:
        self.settle("redis")
        self.stage.redis.kill()
        self._away(struck, most_s=3)
        self.stage.redis.start()
        return True

    def _redis_wiped(self, struck: Struck, _held: list[Holding]) -> bool:
        self.settle("redis")
        self.stage.redis.kill()
        self.stage.redis.wipe()
        self._away(struck, most_s=1)
        self.stage.redis.start()
        return True

    def _redis_paused(self, struck: Struck, _held: list[Holding]) -> bool:
        self.settle("redis")
        process = self.stage.redis.process
        if process is None:
            return False
        process.send_signal(signal.SIGSTOP)
        self._later("redis", self.rng.uniform(1, 8), lambda: process.send_signal(signal.SIGCONT), struck)
        return True

    def _ledger_killed(self, struck: Struck, _held: list[Holding]) -> bool:
        return self._restart_ledger(struck, signal.SIGKILL)

    def _ledger_crashed(self, struck: Struck, _held: list[Holding]) -> bool:
        return self._restart_ledger(struck, signal.SIGQUIT)

    def _restart_ledger(self, struck: Struck, number: signal.Signals) -> bool:
        if self.stage.postgres is None:
            return False
        self.stage.postgres.kill(number)
        self._away(struck, most_s=4)
        self.stage.postgres.start()
        return True

    def _ledger_paused(self, struck: Struck, _held: list[Holding]) -> bool:
        server = self.stage.postgres
        if server is None or server.process is None:
            return False
        main = psutil.Process(server.process.pid)
        main.send_signal(signal.SIGSTOP)  # first, so that it makes no more of them
        family = [main, *main.children(recursive=True)]
        try:
            for process in family[1:]:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGSTOP)
            self._away(struck, most_s=1.4 * self.lease_s)
        finally:
            for process in reversed(family):
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)
        return True

    def _ledger_locked(self, struck: Struck, _held: list[Holding]) -> bool:
        intruder = sqlite3.connect(self.stage.settings.home / "audit.db", isolation_level=None, timeout=10)
        try:
            intruder.execute("BEGIN IMMEDIATE")
            self._away(struck, most_s=1.4 * self.lease_s)
            intruder.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return False
        finally:
            intruder.close()
        return True

    def _victim(self, struck: Struck, held: list[Holding]) -> Holding | None:
        ours = [one for one in held if one.post is not None and one.lives]
        struck.holding = self.rng.choice(ours) if ours else None
        return struck.holding

    def _end_main(self, struck: Struck, held: list[Holding], act: Callable[[Post], None]) -> bool:
        victim = self._victim(struck, held)
        if victim is None or victim.post is None:
            return False
        struck.cost_processes = tuple(one for one in held if one.post is victim.post)
        act(victim.post)
        return True

    def _later(self, what: str, pause_s: float, act: Callable[[], None], struck: Struck) -> None:
        struck.detail = f"{pause_s:.1f} s"
        self.undos.append(Undo(what=what, due=time.monotonic() + pause_s, act=act, struck=struck))

    def _away(self, struck: Struck, *, most_s: float) -> None:
        away_s = self.rng.uniform(0, most_s)
        struck.detail = f"{away_s:.1f} s"
        time.sleep(away_s)


def _continue(pid: int, started: int) -> None:
    if start_ticks(pid) == started:
        os.kill(pid, signal.SIGCONT)


def by_kind(struck: list[Struck]) -> Mapping[str, int]:
    """How many of each kind, in alphabetical order."""
    kinds = sorted({one.kind for one in struck})
    return {kind: sum(one.kind == kind for one in struck) for kind in kinds}
