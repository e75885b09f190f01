"""Is a worker well? Three depths, decided from what its main process tells of itself; asked by the command and by HTTP.

Nothing is looked up here: whoever asks hands over what was told, how old it is, and which processes live.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

GB, MB, KB = 1024**3, 1024**2, 1024
FULL_BYTES = 64 * KB
"""Room for one more chunk of outcomes; below it SQLite cannot commit."""
LOW_BYTES, LOW_SHARE = 256 * MB, 0.05
"""Some thousand chunks of outcomes: time for a person to come. A small disk is low with a share of it, for it is meant
to be small."""
MEMORY_LOW, MEMORY_OUT = 0.05, 0.01
"""Shares of the host's memory, or of the container's limit, that are left: the kernel kills when there is none."""
DEVICE_LOW_SHARE = 0.02
"""Of a device's memory: passes are halved soon, and slower; pairs are still judged, so that is never unhealthy."""


class State(StrEnum):
    """From best to worst."""

    OK = "ok"
    DEGRADED = "degraded"  # works, and somebody should look
    STARTING = "starting"  # nothing has gone wrong, and nothing can be judged yet
    UNHEALTHY = "unhealthy"

    @property
    def passes(self) -> bool:
        """Whether a check says yes: 200, status 0."""
        return self in (State.OK, State.DEGRADED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """One of the three, and a reason for whatever is not ok."""

    state: State
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSeen:
    """A slot: `answered_s` before it was told of, it was last right about a known question."""

    slot: int
    device: str
    pid: int
    told: str  # by its main process: a SlotTold
    answered_s: float | None
    limit_s: float | None  # older than this is red; None when no questions are asked
    works: bool  # its process lives, and is not stopped

    @property
    def state(self) -> State:
        """Green, red or starting, as ok, unhealthy or starting; a slot that loads again is not green either."""
        if self.told == SlotTold.STARTING:
            return State.STARTING
        return State.UNHEALTHY if self.reason else State.OK

    @property
    def reason(self) -> str | None:
        """Why it is not green."""
        if self.told != SlotTold.PROVED:
            return f"slot {self.slot} {SlotTold(self.told).words}"
        if not self.works:
            return f"slot {self.slot}: its process is stopped or gone"
        if self.limit_s is not None and self.answered_s is not None and self.answered_s > self.limit_s:
            return f"slot {self.slot} has answered no known question for {self.answered_s:.0f} s"
        return None


class SlotTold(StrEnum):
    """What the main process knows of a slot."""

    STARTING = "starting"
    LOADING = "loading"
    FAILING = "failing"
    WRONG = "wrong"
    OUT = "out"
    PROVED = "proved"

    @property
    def words(self) -> str:
        """After `slot 3`."""
        return {
            SlotTold.STARTING: "loads its model for the first time",
            SlotTold.LOADING: "loads its model again",
            SlotTold.FAILING: "could not load its model",
            SlotTold.WRONG: "answered a known question wrongly",
            SlotTold.OUT: "is out: its processes died one after the other",
            SlotTold.PROVED: "has proved its model",
        }[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """All three depths."""

    process: Depth
    resources: Depth
    capability: Depth

    @property
    def state(self) -> State:
        """The worst of them."""
        return worst(depth.state for depth in (self.process, self.resources, self.capability))

    def depths(self) -> dict[str, Any]:
        """As JSON has them; names are stable."""
        return {name: {**depth, "reasons": list(depth["reasons"])} for name, depth in asdict(self).items()}


def worst(states: Iterable[State]) -> State:
    """The one that decides."""
    order = list(State)
    return max(states, key=order.index, default=State.OK)


def process_depth(*, pid: int, stopped: bool, silent_s: float, stale_s: float) -> Depth:
    """Whether the main process runs and is heard of."""
    if stopped:
        return Depth(state=State.UNHEALTHY, reasons=(f"worker {pid} is stopped",))
    if silent_s > stale_s:
        reason = f"worker {pid} hangs: it has not told of itself for {silent_s:.0f} s"
        return Depth(state=State.UNHEALTHY, reasons=(reason,))
    return Depth(state=State.OK)


def capability_depth(slots: Sequence[SlotSeen]) -> Depth:
    """All green is ok, one is enough to judge, none is unhealthy; unless all of them load for the first time."""
    reasons = tuple(reason for slot in slots if (reason := slot.reason))
    green = sum(slot.state is State.OK for slot in slots)
    if slots and green == len(slots):
        return Depth(state=State.OK)
    if green:
        return Depth(state=State.DEGRADED, reasons=reasons)
    starting = bool(slots) and all(slot.state is State.STARTING for slot in slots)
    return Depth(state=State.STARTING if starting else State.UNHEALTHY, reasons=reasons)


def resources_depth(told: Mapping[str, Any]) -> Depth:
    """Memory, disks, the devices' memory, Redis and the ledger, by what worker/resources.py has found."""
    found = [(State.UNHEALTHY, str(reason)) for name in ("redis", "ledger") if (reason := told.get(name))]
    found += [_disk(disk) for disk in told.get("disks", ())]
    found += [_memory(memory) for memory in told.get("memory", ())]
    found += [_device(device) for device in told.get("devices", ())]
    return Depth(
        state=worst(state for state, _ in found),
        reasons=tuple(reason for state, reason in found if state is not State.OK),
    )


def full_disks(told: Mapping[str, Any]) -> list[str]:
    """Those of resources_depth() that are full: nothing can be claimed then, and a restart would not help."""
    found = [_disk(disk) for disk in told.get("disks", ())]
    return [reason for state, reason in found if state is State.UNHEALTHY]


def _disk(told: Mapping[str, Any]) -> tuple[State, str]:
    free, size = int(told["free_bytes"]), int(told["size_bytes"])
    if told.get("no_files_left"):
        return State.UNHEALTHY, f"the disk of {told['folder']} takes no more files"
    if free < FULL_BYTES:
        return State.UNHEALTHY, f"the disk of {told['folder']} is full: {free} bytes are left"
    low = free < min(LOW_BYTES, LOW_SHARE * size)
    return State.DEGRADED if low else State.OK, f"the disk of {told['folder']} is nearly full: {free // KB} KB are left"


def _memory(told: Mapping[str, Any]) -> tuple[State, str]:
    total, free = int(told["total_bytes"]), int(told["free_bytes"])
    reason = f"{told['of']}: {free // MB} MB of {total // MB} MB of memory are left"
    if free < MEMORY_OUT * total:
        return State.UNHEALTHY, reason
    return State.DEGRADED if free < MEMORY_LOW * total else State.OK, reason


def _device(told: Mapping[str, Any]) -> tuple[State, str]:
    total, free = int(told["total_bytes"]), int(told["free_bytes"])
    low = free < DEVICE_LOW_SHARE * total
    return State.DEGRADED if low else State.OK, f"device {told['device']}: {free // MB} MB of its memory are left"
