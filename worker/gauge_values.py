"""Every gauge, by name, and the values that it has for what was seen."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from audit.baseline import Baseline
from db.queue_load import LaneLoad
from db.workers import SlotState, SlotTold
from telemetry.devices import DeviceReading
from worker.health import Health, State
from worker.resources import disks

Values = Mapping[str, Sequence[tuple[tuple[str, ...], float]]]
"""By gauge: the values of its labels, and the number."""

GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "queue_pairs": ("Pairs of this worker's model without an outcome, waiting or worked at.", ("lane",)),
    "queue_oldest_seconds": ("Since the oldest batch was opened of which a chunk waits; 0: none does.", ("lane",)),
    "parked_chunks": ("Chunks of this worker's model that wait for a person.", ()),
    "slots": ("Slots of this worker by what they do.", ("state",)),
    "slot_rss_bytes": ("Memory that a slot's process holds.", ("slot",)),
    "device_memory_bytes": ("A device's memory, of all its users.", ("device", "kind")),
    "device_temperature_celsius": ("A device's temperature.", ("device",)),
    "device_utilization_ratio": ("Share of the last moments in which a device computed.", ("device",)),
    "model_info": (
        "Always 1; the labels say what a slot has loaded.",
        ("model", "revision", "precision", "engine", "version"),
    ),
    "canary_age_seconds": ("Since a slot last answered a known question rightly.", ("slot",)),
    "health": ("1: well, 0.5: works, and somebody should look, 0: not.", ("depth",)),
    "host_memory_ratio": ("Share of the host's memory in use.", ()),
    "memory_limit_ratio": ("Share of the control group's memory limit in use; absent without a limit.", ()),
    "disk_free_bytes": ("Room on the disk of AUDIT_HOME, and of a SQLite ledger.", ("folder",)),
    "disk_size_bytes": ("Size of that disk.", ("folder",)),
    "baseline_stage_seconds": (
        "A pair's stage as `caption-audit baseline` measured it on this machine.",
        ("stage", "quantile"),
    ),
    "baseline_pairs_per_second": ("All slots together, as `caption-audit baseline` measured it.", ()),
}
"""What each one says, and its labels; the unit is in the name."""
HEALTHY = {State.OK: 1.0, State.DEGRADED: 0.5}


def of_queue(lanes: Sequence[LaneLoad]) -> Values:
    """What waits; a lane in which nothing waits is told as 0, since a series that comes and goes raises no alarm."""
    return {
        "queue_pairs": [((load.lane.value,), load.pairs) for load in lanes],
        "queue_oldest_seconds": [((load.lane.value,), load.oldest_s or 0.0) for load in lanes],
        "parked_chunks": [((), sum(load.parked for load in lanes))] if lanes else [],
    }


def of_slots(told: Sequence[SlotTold], *, engine: str, later_s: float) -> Values:
    """What was told of the slots, so many seconds ago."""
    states = [slot.state for slot in told]
    loaded = {(slot.model, slot.model_revision, slot.precision or "") for slot in told if slot.model_revision}
    return {
        "slots": [((state.value,), states.count(state)) for state in SlotState],
        "slot_rss_bytes": [((str(slot.slot),), slot.rss_bytes) for slot in told if slot.rss_bytes],
        "canary_age_seconds": [
            ((str(slot.slot),), slot.canary_age_s + later_s) for slot in told if slot.canary_age_s is not None
        ],
        "model_info": [
            ((model, str(revision), precision, engine, this_version()), 1.0)
            for model, revision, precision in sorted(loaded, key=str)
        ],
    }


def of_health(health: Health) -> Values:
    """Three depths."""
    depths = {"process": health.process, "resources": health.resources, "capability": health.capability}
    return {"health": [((name,), HEALTHY.get(depth.state, 0.0)) for name, depth in depths.items()]}


def of_devices(readings: Iterable[tuple[str, DeviceReading]]) -> Values:
    """What the driver says; a device's name is the slot's, as outcomes have it."""
    memory, celsius, load = [], [], []
    for name, reading in readings:
        device = f"cuda:{name}"
        for kind, amount in (("used", reading.memory_used_bytes), ("total", reading.memory_total_bytes)):
            memory += [((device, kind), float(amount))] if amount is not None else []
        celsius += [((device,), float(reading.temperature_c))] if reading.temperature_c is not None else []
        load += [((device,), reading.load_ratio)] if reading.load_ratio is not None else []
    return {"device_memory_bytes": memory, "device_temperature_celsius": celsius, "device_utilization_ratio": load}


def of_memory(host_percent: float, limits: Iterable[Mapping[str, Any]]) -> Values:
    """The host's, and that of the control group that is nearest to its limit."""
    used = [1 - limit["free_bytes"] / limit["total_bytes"] for limit in limits if limit["total_bytes"]]
    return {
        "host_memory_ratio": [((), host_percent / 100)],
        "memory_limit_ratio": [((), max(used))] if used else [],
    }


def of_disks(folders: Sequence[Path], look: Callable[[Sequence[Path]], list[dict[str, Any]]] = disks) -> Values:
    """`home` and `ledger`, also when both lie on one disk; names are no paths, which differ from host to host."""
    found = [(name, seen) for name, folder in zip(("home", "ledger"), folders, strict=False) for seen in look([folder])]
    return {
        "disk_free_bytes": [((name,), seen["free_bytes"]) for name, seen in found],
        "disk_size_bytes": [((name,), seen["size_bytes"]) for name, seen in found],
    }


def of_baseline(baseline: Baseline | None) -> Values:
    """Absent until it is measured."""
    if baseline is None:
        return {}
    return {
        "baseline_stage_seconds": list(_stages(baseline)),
        "baseline_pairs_per_second": [((), baseline.pairs_per_second)],
    }


def _stages(baseline: Baseline) -> Iterator[tuple[tuple[str, ...], float]]:
    for stage, percentiles in baseline.stages.items():
        for name, seconds in percentiles.items():
            yield (stage, f"{int(name.removeprefix('p')) / 100:g}"), seconds


@cache
def this_version() -> str:
    """Of this package."""
    try:
        return version("caption-audit")
    except PackageNotFoundError:
        return "unknown"
