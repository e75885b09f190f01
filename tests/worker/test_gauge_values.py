"""Gauges for what was seen: names and labels that dashboards and alerts rely on."""

import signal
from pathlib import Path

import pytest

from audit.message import Lane
from db.queue_load import LaneLoad
from telemetry.devices import DeviceReading
from telemetry.metrics import meters
from worker.board import Board
from worker.deaths import EX_LET_GO, EX_LOAD_FAILED, EX_SICK, Deaths
from worker.gauge_values import GAUGES, of_devices, of_disks, of_memory, of_queue
from worker.sick import EX_OUT


def test_an_empty_lane_is_told_as_nothing_that_waits() -> None:
    """A series that comes and goes raises no alarm when it should."""
    lanes = [
        LaneLoad(lane=Lane.INTERACTIVE, pairs=0, oldest_s=None, parked=1),
        LaneLoad(lane=Lane.BULK, pairs=5, oldest_s=2.5, parked=2),
    ]
    assert of_queue(lanes) == {
        "queue_pairs": [(("interactive",), 0), (("bulk",), 5)],
        "queue_oldest_seconds": [(("interactive",), 0.0), (("bulk",), 2.5)],
        "parked_chunks": [((), 3)],
    }


def test_a_device_tells_what_its_driver_tells() -> None:
    """A MIG part has neither temperature nor load of its own: those are left out, not told as 0."""
    whole = DeviceReading(
        index=0,
        uuid="GPU-1",
        name="some GPU",
        memory_used_bytes=3,
        memory_total_bytes=8,
        temperature_c=50,
        load_ratio=0.5,
    )
    part = DeviceReading(
        index=-1,
        uuid="MIG-1",
        name="a part",
        memory_used_bytes=1,
        memory_total_bytes=2,
        temperature_c=None,
        load_ratio=None,
    )
    values = of_devices([("0", whole), ("MIG-1", part)])
    assert values == {
        "device_memory_bytes": [
            (("cuda:0", "used"), 3.0),
            (("cuda:0", "total"), 8.0),
            (("cuda:MIG-1", "used"), 1.0),
            (("cuda:MIG-1", "total"), 2.0),
        ],
        "device_temperature_celsius": [(("cuda:0",), 50.0)],
        "device_utilization_ratio": [(("cuda:0",), 0.5)],
    }
    assert values.keys() <= GAUGES.keys()


def test_memory_is_that_of_the_limit_that_is_reached_first() -> None:
    """A container is killed at its own limit, or at that of a group above it."""
    limits = [{"total_bytes": 100, "free_bytes": 90}, {"total_bytes": 1_000, "free_bytes": 200}]
    assert of_memory(40.0, limits) == {"host_memory_ratio": [((), 0.4)], "memory_limit_ratio": [((), 0.8)]}
    assert of_memory(40.0, [])["memory_limit_ratio"] == []


def test_disks_are_named_by_what_lies_on_them(tmp_path: Path) -> None:
    """A path would differ from host to host; a folder that is not there yet has no disk."""
    values = of_disks([tmp_path, tmp_path / "none"])
    assert [labels for labels, _ in values["disk_free_bytes"]] == [("home",)]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (-signal.SIGKILL, "killed"),
        (-signal.SIGSEGV, "crashed"),
        (1, "exited"),
        (EX_LOAD_FAILED, "load_failed"),
        (EX_LET_GO, "let_go"),
        (EX_OUT, "out"),
        (EX_SICK, "sick"),
        (0, None),
    ],
)
def test_a_death_is_counted_by_its_reason(status: int, reason: str | None) -> None:
    """Whether processes are killed, crash or give up are different nights."""
    board = Board()
    board.started(0, 4242)
    deaths = Deaths(board, 1, oom_kills=lambda: 0)
    before = _restarts()
    deaths.ended(4242, status)
    grown = {name: count - before.get(name, 0) for name, count in _restarts().items() if count != before.get(name, 0)}
    assert grown == ({reason: 1} if reason else {})


def _restarts() -> dict[str, float]:
    (family,) = meters().restarts.collect()
    return {sample.labels["reason"]: sample.value for sample in family.samples if sample.name.endswith("_total")}
