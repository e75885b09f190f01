"""The rain: fault after fault, each with a chunk in some process's hands, and then the wait until all is dry."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import redis

from audit.errors import LedgerUnavailable
from tests.chaos.faults import Rainmaker, Struck
from tests.chaos.plan import Plan
from tests.chaos.stage import Holding, Stage
from tests.chaos.truth import Truth

LOOK_S = 0.1
STALLED_S = 120.0
"""So long without a new outcome while no fault falls is a stall."""
MOST_MISSES = 200


@dataclass(slots=True, kw_only=True)
class Rain:
    """What fell. `missed` are faults that found nothing to strike and came later, or never."""

    struck: list[Struck] = field(default_factory=list)
    missed: int = 0
    idle_s: float = 0.0


def rain(
    stage: Stage, plan: Plan, truth: Truth, fallen: Rain, *, submitted: Callable[[], bool], deadline: float
) -> None:
    """Strike until the plan's faults have fallen, the work is done, or the deadline (monotonic) has come."""
    maker = Rainmaker(stage=stage, rng=plan.rng, lease_s=stage.settings.lease_s)
    waiting = deque(plan.faults)
    next_at = time.monotonic()
    try:
        while waiting and time.monotonic() < deadline and fallen.missed < MOST_MISSES:
            maker.settle(due_by=time.monotonic())
            if time.monotonic() < next_at:
                time.sleep(LOOK_S / 2)
                continue
            held = stage.holdings()
            if not held:
                if submitted() and _is_done(stage):
                    break
                fallen.idle_s += LOOK_S
                time.sleep(LOOK_S)
                continue
            struck = _strike(maker, waiting[0], held)
            if struck is None:
                fallen.missed += 1
                waiting.rotate(-1)
                next_at = time.monotonic() + LOOK_S
                continue
            waiting.popleft()
            fallen.struck.append(struck)
            truth.struck |= {(one.batch, one.chunk) for one in struck.cost_processes}
            next_at = time.monotonic() + plan.rng.uniform(0.3, 1.7) * plan.mean_gap_s
    finally:
        maker.settle()


def _strike(maker: Rainmaker, kind: str, held: list[Holding]) -> Struck | None:
    try:
        return maker.strike(kind, held)
    except (redis.RedisError, ProcessLookupError):
        return None  # the victim was quicker


def _is_done(stage: Stage) -> bool:
    try:
        return stage.counts()["open"] == 0
    except LedgerUnavailable:
        return False


def drained(stage: Stage, *, submitted: Callable[[], bool], deadline: float) -> str | None:
    """Wait until no chunk is open; returns None, or why it did not come to that."""
    best, best_at = -1, time.monotonic()
    while time.monotonic() < deadline:
        try:
            counts = stage.counts()
        except LedgerUnavailable:
            counts = None
        if counts is not None:
            if counts["open"] == 0 and submitted():
                time.sleep(stage.settings.lease_s)  # a cancelled chunk's holder may record until its lease ends
                return None
            if counts["judged"] > best:
                best, best_at = counts["judged"], time.monotonic()
        if time.monotonic() - best_at > STALLED_S:
            return f"no new outcome for {STALLED_S:.0f} s at {counts}"
        time.sleep(0.5)
    return "the time was up before everything was judged"
