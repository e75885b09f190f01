"""A worker as others see it: what its main process told last, how long ago, and which of its processes live.

Nobody is asked for it: neither Redis nor the ledger, whose outage must not make a check hang.
"""

import json
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from worker.health import (
    Health,
    SlotSeen,
    State,
    capability_depth,
    process_depth,
    resources_depth,
)

STALE_S = 60.0
"""A main process writes once a second; while a ledger or a Redis hangs it writes within half of this."""
MOST_BYTES = 400_000
"""What a worker writes of itself is some hundred bytes, and some hundred more a slot."""
CLOCK_S = 2.0
"""Start times of processes are known to a hundredth of a second, but by a boot time that is rounded."""


class Probe(StrEnum):
    """What is asked."""

    LIVE = "live"
    READY = "ready"
    ALL = "all"
    FLOWER = "flower"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeen:
    """A worker whose main process lives. `ready` counts slots that can judge, as far as that can be known."""

    pid: int
    model: str
    slots: int
    ready: int
    silent_s: float  # since it last wrote
    stopped: bool  # SIGSTOP, or a debugger
    waits: str | None  # for what: a ledger or a Redis that is away; it makes nobody unready
    finished: int = 0  # chunks, and pairs judged alone, since it started
    busy: int = 0  # slots with a chunk in hand
    seats: tuple[SlotSeen, ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)

    def health(self, stale_s: float = STALE_S) -> Health:
        """All three depths."""
        return Health(
            process=process_depth(pid=self.pid, stopped=self.stopped, silent_s=self.silent_s, stale_s=stale_s),
            resources=resources_depth(self.resources),
            capability=capability_depth(self.seats),
        )

    def wrong(self, probe: Probe, stale_s: float) -> str | None:
        """Why the answer is no; None when it is yes. One ready slot is enough: others may be reloading just now."""
        health = self.health(stale_s)
        if not health.process.state.passes:
            return health.process.reasons[0]
        if probe is not Probe.LIVE and not self.ready:
            return f"worker {self.pid} cannot judge: {self._why_not(health)}"
        if probe is Probe.ALL and not health.resources.state.passes:
            return f"worker {self.pid} lacks: {', '.join(health.resources.reasons)}"
        return None

    def _why_not(self, health: Health) -> str:
        told = ", ".join(health.capability.reasons) if health.capability.state is State.UNHEALTHY else ""
        return told or f"none of its {self.slots} slots has proved its model"


def workers_seen(home: Path, *, now: float) -> Iterator[WorkerSeen]:
    """Every worker of this AUDIT_HOME whose main process lives; `now` is in seconds since the epoch.

    Files that a killed worker left behind are passed over, also when another process has its number by now.
    """
    import psutil

    for path in sorted((home / "run").glob("worker-*.json")):
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
                continue  # reading a pipe would wait for ever
            yield seen(json.loads(path.read_text()), wrote_at=found.st_mtime, now=now)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, psutil.Error):
            continue  # gone between two looks, or no file of ours


def seen(told: Mapping[str, Any], *, wrote_at: float, now: float) -> WorkerSeen:
    """The worker that told this then. Raises psutil.NoSuchProcess when it lives no more."""
    import psutil

    process = psutil.Process(int(told["pid"]))
    if process.status() == psutil.STATUS_ZOMBIE or process.create_time() > wrote_at + CLOCK_S:
        raise psutil.NoSuchProcess(process.pid)
    silent_s = round(max(0.0, now - wrote_at), 1)
    seats = tuple(_seat(seat, parent=process.pid) for seat in told.get("seats", ()))
    proved = sum(_works(int(pid), process.pid) for pid in told["ready"].values())
    return WorkerSeen(
        pid=process.pid,
        model=str(told["model"]),
        slots=int(told["slots"]),
        ready=sum(seat.state is State.OK for seat in seats) if seats else proved,
        silent_s=silent_s,
        stopped=process.status() == psutil.STATUS_STOPPED,
        waits=told.get("waits"),
        finished=int(told.get("finished", 0)),
        busy=int(told.get("busy", 0)),
        seats=seats,
        resources=dict(told.get("resources", {})),
    )


def told_of(worker: WorkerSeen, stale_s: float = STALE_S) -> dict[str, Any]:
    """One worker's health as JSON has it, on its page and in `caption-audit health --json`; names are stable."""
    health = worker.health(stale_s)
    return {
        "state": health.state.value,
        "pid": worker.pid,
        "model": worker.model,
        "slots": worker.slots,
        "ready": worker.ready,
        "silent_s": worker.silent_s,
        "stopped": worker.stopped,
        "waits": worker.waits,
        "finished": worker.finished,
        "busy": worker.busy,
        "depths": health.depths(),
        "seats": [
            {
                "slot": seat.slot,
                "device": seat.device,
                "pid": seat.pid,
                "state": seat.state.value,
                "told": seat.told,
                "answered_s": seat.answered_s,
                "limit_s": seat.limit_s,
            }
            for seat in worker.seats
        ],
        "resources": dict(worker.resources),
    }


def _seat(told: Mapping[str, Any], *, parent: int) -> SlotSeen:
    """Its answer's age is as it was told: that the main process is silent since is another depth's affair."""
    answered_s, limit_s = told["answered_s"], told["limit_s"]
    return SlotSeen(
        slot=int(told["slot"]),
        device=str(told["device"]),
        pid=int(told["pid"]),
        told=str(told["told"]),
        answered_s=None if answered_s is None else float(answered_s),
        limit_s=None if limit_s is None else float(limit_s),
        works=_works(int(told["pid"]), parent),
    )


def _works(pid: int, parent: int) -> bool:
    """Whether a pool process lives; a number that another process has by now does not count."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.ppid() == parent and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)
    except psutil.Error:
        return False
