"""What can be seen of a run: progress while it lasts, messages sent again, and afterwards what the logs counted."""

import json
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from audit.errors import LedgerUnavailable
from tests.chaos.faults import Struck
from tests.chaos.stage import Stage

SENDS = "SELECT batch, number, sends FROM chunks WHERE state = 'sent' AND sends > 1"
ROWS_OF = (
    "SELECT min(o.judged_at) AS at FROM outcomes o JOIN chunks c ON c.batch = o.batch"
    " AND o.row BETWEEN c.first_row AND c.last_row"
    " WHERE c.batch = :batch AND c.number = :chunk AND o.judged_at > :after"
)
WITH_REASON = {
    "claim taken over": "cause",
    "chunk ended": "ending",
    "chunk not claimable": "reason",
    "worker process leaves": "reason",
}
ALONE = ("stuck process killed", "chunk parked", "message dropped", "consumer is deaf, connecting anew")
CELERYS = (
    *("Task handler raised error: WorkerLostError", "consumer: C", "Unrecoverable error: JSONDecodeError"),
    *(
        "Received unregistered task",
        "Couldn't reject",
        "Unrecoverable error: UnicodeDecodeError",
        "Unrecoverable error: TypeError(\"'int' object is not subscr",
    ),
)
"""Tracebacks that Celery writes of what the rain does to it: a killed process, a Redis that is away, rubbish."""
UNEXPECTED = ("chunk failed", "housekeeping failed", "sweep failed", "worker not started")


@dataclass(slots=True, kw_only=True)
class Watch:
    """A thread that looks at the ledger every second and says how far it is every `say_every_s`."""

    stage: Stage
    say: Callable[[str], None]
    faults: Callable[[], int]
    total: int
    say_every_s: float = 10.0
    resent: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _sends: dict[tuple[int, int], int] = field(default_factory=dict)

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def stop(self) -> None:
        """End, without waiting for a ledger that does not answer."""
        self._stopped.set()

    def _run(self) -> None:
        said_at = 0.0
        while not self._stopped.wait(1.0):
            try:
                self._count_resent()
                if time.monotonic() - said_at >= self.say_every_s:
                    said_at = time.monotonic()
                    self._say(self.stage.counts())
            except LedgerUnavailable as error:
                if time.monotonic() - said_at >= self.say_every_s:
                    said_at = time.monotonic()
                    self.say(f"ledger away: {error.detail[:80]}")

    def _count_resent(self) -> None:
        seen = {(row["batch"], row["number"]): int(row["sends"]) for row in self.stage.query(SENDS)}
        for chunk, sends in seen.items():
            before = self._sends.get(chunk, 1)
            self.resent += sends - before if sends > before else 0
        self._sends = seen

    def _say(self, counts: dict[str, int]) -> None:
        ended = sum(len(post.ended) for post in self.stage.supervisor.posts)
        self.say(
            f"{counts['judged']:,} of {self.total:,} judged, {counts['running']} chunks running,"
            f" {counts['parked']} parked, {self.faults()} faults, {ended} workers ended"
        )


def read_logs(logs: Iterable[Path]) -> tuple[Counter[str], list[str]]:
    """How often each event that tells of a fault was logged, with its reason; and lines that nobody expected."""
    counted: Counter[str] = Counter()
    unexpected: list[str] = []
    for log in logs:
        with log.open(errors="replace") as lines:
            for line in lines:
                if line.startswith("Traceback"):  # of a process that did not get so far as to log
                    unexpected.append(f"{log.name}: {_traceback(lines)[-600:]}")
                event = _event(line)
                name = str(event.get("event", ""))
                counted[_key(name, event)] += 1
                if name in UNEXPECTED or ("Traceback" in event.get("exception", "") and not name.startswith(CELERYS)):
                    unexpected.append(f"{log.name}: {line[:300]} ... {line.strip()[-500:]}")
    counted.pop("", None)
    return counted, unexpected


def _event(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line) if line.startswith("{") else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _traceback(lines: Iterator[str]) -> str:
    """What follows its first line, to the one that names the exception."""
    told = ""
    for line in lines:
        told += line
        if not line.startswith(" "):
            break
    return told


def _key(name: str, event: dict[str, Any]) -> str:
    if name in WITH_REASON:
        return f"{name}: {str(event.get(WITH_REASON[name])).split(':')[0]}"
    return name if name in ALONE or name in UNEXPECTED else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Some times, in seconds."""

    count: int
    median_s: float
    p95_s: float
    most_s: float

    @classmethod
    def of(cls, times: Sequence[float]) -> "Spread":
        """Of none, all are 0."""
        if not times:
            return cls(count=0, median_s=0.0, p95_s=0.0, most_s=0.0)
        ordered = sorted(times)
        middle, late = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        return cls(count=len(ordered), median_s=round(middle, 2), p95_s=round(late, 2), most_s=round(ordered[-1], 2))


def recovery(stage: Stage, struck: Sequence[Struck]) -> dict[str, Spread]:
    """From the end of each fault to the next outcome that was committed anywhere, by kind and for all of them."""
    times = _commits(stage)
    waits: dict[str, list[float]] = {}
    for one in struck:
        place = bisect_right(times, one.over_at)
        if place < len(times):
            waits.setdefault(one.kind, []).append(times[place] - one.over_at)
    everything = [wait for kind in waits.values() for wait in kind]
    return {"all": Spread.of(everything), **{kind: Spread.of(waits[kind]) for kind in sorted(waits)}}


def victims(stage: Stage, struck: Sequence[Struck]) -> Spread:
    """From each kill of a process to the next outcome of the chunk that it had in hand."""
    waits = []
    for one in struck:
        for held in one.cost_processes:
            row = stage.query(ROWS_OF, batch=held.batch, chunk=held.chunk, after=one.at)[0]
            if row["at"] is not None:
                waits.append(float(row["at"]) - one.at)
    return Spread.of(waits)


def _commits(stage: Stage) -> list[float]:
    return [float(row["at"]) for row in stage.query("SELECT DISTINCT judged_at AS at FROM outcomes ORDER BY at")]


def longest_pause(stage: Stage) -> float:
    """The longest time between two commits of outcomes, in seconds."""
    times = _commits(stage)
    return round(max((later - sooner for sooner, later in pairwise(times)), default=0.0), 1)
