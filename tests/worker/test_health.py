"""What a worker tells of itself, and what is made of it."""

from pathlib import Path
from typing import Any

import pytest

from worker.health import (
    GB,
    KB,
    MB,
    SlotSeen,
    SlotTold,
    State,
    capability_depth,
    process_depth,
    resources_depth,
)
from worker.resources import group_limits

WELL = {
    "redis": None,
    "ledger": None,
    "disks": [{"folder": "/home", "free_bytes": 90 * GB, "size_bytes": 100 * GB, "no_files_left": False}],
    "memory": [{"of": "this host", "total_bytes": 64 * GB, "free_bytes": 30 * GB}],
    "devices": [{"device": "0", "total_bytes": 80 * GB, "free_bytes": 40 * GB}],
}


def slot(number: int = 0, **fields: Any) -> SlotSeen:
    told: dict[str, Any] = {
        "device": "cpu",
        "pid": 11,
        "told": "proved",
        "answered_s": 3.0,
        "limit_s": 120.0,
        "works": True,
    }
    return SlotSeen(slot=number, **(told | fields))


def disk(**fields: Any) -> dict[str, Any]:
    return WELL | {"disks": [WELL["disks"][0] | fields]}  # type: ignore[index]  # ours, above


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (WELL, State.OK),
        ({}, State.OK),  # by a version that told nothing of it
        (WELL | {"redis": "connection refused"}, State.UNHEALTHY),
        (WELL | {"ledger": "no answer"}, State.UNHEALTHY),
        (disk(free_bytes=64 * KB), State.DEGRADED),
        (disk(free_bytes=64 * KB - 1), State.UNHEALTHY),
        (disk(free_bytes=256 * MB), State.OK),
        (disk(free_bytes=256 * MB - 1), State.DEGRADED),
        (disk(free_bytes=MB, size_bytes=4 * MB), State.OK),  # a small disk is meant to be small
        (disk(no_files_left=True), State.UNHEALTHY),
        (WELL | {"memory": [{"of": "this container", "total_bytes": GB, "free_bytes": 51 * MB}]}, State.DEGRADED),
        (WELL | {"memory": [{"of": "this container", "total_bytes": GB, "free_bytes": 10 * MB}]}, State.UNHEALTHY),
        (WELL | {"devices": [{"device": "0", "total_bytes": 80 * GB, "free_bytes": GB}]}, State.DEGRADED),
    ],
)
def test_what_is_lacking_is_named(told: dict[str, Any], state: State) -> None:
    """Thresholds to the last byte; whatever is not ok has a reason, and nothing else has."""
    depth = resources_depth(told)
    assert depth.state is state
    assert len(depth.reasons) == (state is not State.OK)


@pytest.mark.parametrize(
    ("slots", "state"),
    [
        ([slot(), slot(1)], State.OK),
        ([slot(), slot(1, works=False)], State.DEGRADED),
        ([slot(), slot(1, told="starting")], State.DEGRADED),
        ([slot(answered_s=120.0)], State.OK),
        ([slot(answered_s=120.1)], State.UNHEALTHY),
        ([slot(answered_s=9_999.0, limit_s=None)], State.OK),  # no questions are asked
        ([slot(told="starting"), slot(1, told="starting")], State.STARTING),
        ([slot(told="starting"), slot(1, told="failing")], State.UNHEALTHY),
        ([slot(told="loading")], State.UNHEALTHY),
        ([slot(told="wrong"), slot(1, told="out")], State.UNHEALTHY),
        ([], State.UNHEALTHY),
    ],
)
def test_one_green_slot_is_enough_to_judge_and_all_are_wanted(slots: list[SlotSeen], state: State) -> None:
    """One red slot of two is degraded, none green is unhealthy, and a first load is neither."""
    depth = capability_depth(slots)
    assert depth.state is state
    assert len(depth.reasons) == sum(one.state is not State.OK for one in slots)


def test_every_word_of_a_slot_can_be_said() -> None:
    """A reason that fails to be put into words would be a page that fails just when it is needed."""
    assert all(slot(told=told.value, works=False).reason for told in SlotTold)


def test_states_that_pass_are_those_that_judge() -> None:
    """200 and 0, or 503 and 1."""
    assert [state.value for state in State if state.passes] == ["ok", "degraded"]
    assert process_depth(pid=1, stopped=False, silent_s=60, stale_s=60).state is State.OK
    assert process_depth(pid=1, stopped=False, silent_s=61, stale_s=60).state is State.UNHEALTHY
    assert process_depth(pid=1, stopped=True, silent_s=0, stale_s=60).state is State.UNHEALTHY


def test_a_containers_limit_counts_without_what_the_kernel_can_take_back(tmp_path: Path) -> None:
    """Reading a million pictures fills a container with cached pages, and kills nobody."""
    (tmp_path / "pod").mkdir()
    (tmp_path / "mine").write_text("0::/pod\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "pod" / "memory.max").write_text("1000\n")
    (tmp_path / "pod" / "memory.current").write_text("950\n")
    (tmp_path / "pod" / "memory.stat").write_text("anon 100\ninactive_file 800\n")
    (limit,) = group_limits(tmp_path, tmp_path / "mine")
    assert limit == {"of": "this container", "total_bytes": 1000, "free_bytes": 850}


def test_a_group_without_a_limit_has_none(tmp_path: Path) -> None:
    """Version 1 writes 2^63 less a page for it, of which nobody ever uses a share that is worth an alert."""
    group = tmp_path / "memory"
    group.mkdir()
    (tmp_path / "mine").write_text("4:memory:/\n")
    (group / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (group / "memory.usage_in_bytes").write_text("6000000000\n")
    assert list(group_limits(tmp_path, tmp_path / "mine")) == []
