"""Devices with too little memory, as whole workers meet them; the stub engine plays a device of a known size."""

import json
from pathlib import Path

import pytest

from audit.settings import Settings
from db.queries import progress
from tests.support.manifests import draw, small_manifest, write_csv
from tests.support.recovery import recovery
from tests.support.running import changed, check_promises, finished, ledger, results, running, submitted, told
from tests.support.waiting import wait_until


@pytest.fixture
def device(sqlite_settings: Settings) -> Settings:
    """Two slots on one imaginary GPU where a pass costs as much as some pairs."""
    return changed(
        sqlite_settings, devices="GPU-aaaa", slots_per_device=2, feed_every_s=0.2, chunk_pairs=32, stub_call_s=0.02
    )


def test_a_model_that_does_not_fit_ends_the_worker_at_once(device: Settings, tmp_path: Path) -> None:
    """One load, one line with the cure, status 69, nothing claimed; loading it three times would say the same.

    Safeguard: DeviceTooSmall of a slot's first process ends the worker (worker/child.py); nobody loads again.
    """
    small = changed(device, stub_device_pairs=1, slots_per_device=1)
    batch = submitted(small, small_manifest(tmp_path))
    with running(small, tmp_path) as worker:
        assert worker.process.wait(timeout=90) == 69
        line = worker.tail().splitlines()[-1]
        assert line.startswith("caption-audit: device_too_small: the model does not fit device GPU-aaaa")
        assert "AUDIT_SLOTS_PER_DEVICE=1" in line
        assert len(worker.events("slot pinned")) == 1
    with ledger(small) as database:
        assert progress(database, batch).chunks == {"sent": 1}


def test_the_micro_batch_is_measured_once_a_device_and_model(device: Settings, tmp_path: Path) -> None:
    """Neither the neighbour, nor a replacement, nor the next worker measures again; answers are those of batch 1."""
    searched = changed(device, stub_device_pairs=10, max_tasks_per_child=1, chunk_pairs=4, cache=False)
    batch = submitted(searched, small_manifest(tmp_path, pairs=24))
    with running(searched, tmp_path) as worker:
        finished(searched, batch, watch=worker)
        worker.wait_for("model proved", count=3)
        (measured,) = worker.events("micro-batch measured")
    assert (measured["chosen"], measured["ended"]) == (8, "out of memory")
    kept = json.loads((searched.home / "cache" / "micro_batch.json").read_text())
    assert [entry["size"] for entry in kept["found"].values()] == [8]
    again = submitted(changed(searched), small_manifest(tmp_path, pairs=8, name="again.csv"))
    with running(searched, tmp_path) as worker:
        finished(searched, again, watch=worker)
        assert worker.events("micro-batch measured") == []
    one_by_one = changed(searched, micro_batch=1, devices="cpu")
    third = submitted(one_by_one, small_manifest(tmp_path, pairs=24, name="third.csv"))
    with running(one_by_one, tmp_path) as worker:
        finished(one_by_one, third, watch=worker)
    assert results(searched, batch) == results(searched, third)
    check_promises(searched, batch)


def test_a_micro_batch_that_the_operator_set_too_high_is_halved_and_costs_no_pair(
    device: Settings, tmp_path: Path
) -> None:
    """Out of memory at every full pass: fewer at a time, every pair judged, no attempt charged.

    Safeguard: OutOfDeviceMemory halves the micro-batch (worker/judging.py) instead of failing its pairs.
    """
    greedy = changed(device, stub_device_pairs=5, micro_batch=32)
    batch = submitted(greedy, small_manifest(tmp_path, pairs=64))
    with running(greedy, tmp_path) as worker, ledger(greedy) as database:
        worker.wait_for("micro-batch halved")
        with recovery(9, "a pass did not fit the device", within_s=10):
            wait_until(lambda: progress(database, batch).judged, timeout_s=60, what="a commit")
        finished(greedy, batch, watch=worker)
        assert {event["now"] for event in worker.events("micro-batch halved")} >= {16, 8, 4}
    assert set(results(greedy, batch).values()) <= {"Yes", "No", "Maybe"}
    assert check_promises(greedy, batch).judged == 64


def test_many_small_passes_of_one_micro_batch_are_progress(device: Settings, tmp_path: Path) -> None:
    """Halved again and again, a large micro-batch takes longer than a lease; its process is not stuck."""
    slow = changed(
        device,
        stub_device_pairs=2,
        stub_pair_s=0.15,
        micro_batch=64,
        chunk_pairs=64,
        cache=False,
        lease_s=5.0,
        pair_limit_s=3.0,
        decode_limit_s=3.0,
    )
    batch = submitted(slow, small_manifest(tmp_path, pairs=64))
    with running(slow, tmp_path) as worker:
        finished(slow, batch, watch=worker)
        assert worker.events("stuck process killed") == []
    assert {row.attempt for row in told(slow, batch).values()} == {1}


@pytest.mark.parametrize("allowed", [True, False])
def test_a_pair_that_no_device_has_room_for_goes_to_the_cpu_if_that_is_allowed(
    device: Settings, tmp_path: Path, allowed: bool
) -> None:
    """Who would rather wait than miss a verdict says so; it is logged loudly, and the device has the next pair.

    Safeguard: the CPU's copy of the engine (worker/passes.py); without the setting the pair has failed.
    """
    patient = changed(device, cpu_fallback=allowed, stub_device_pairs=8, micro_batch=4, cache=False)
    draw(tmp_path / "red.png")
    captions = ["stub:yes", "stub:oom>0 stub:no", "stub:maybe"]
    rows = [(f"p{number}", "red.png", caption) for number, caption in enumerate(captions)]
    batch = submitted(patient, write_csv(tmp_path / "pairs.csv", rows))
    with running(patient, tmp_path) as worker:
        finished(patient, batch, watch=worker)
        assert len(worker.events("pair judged on the CPU")) == int(allowed)
    assert results(patient, batch) == {"p0": "Yes", "p1": "No" if allowed else "out_of_device_memory", "p2": "Maybe"}
    assert told(patient, batch)["p1"].flags == ("image_small", *(["cpu_fallback"] if allowed else []))
    check_promises(patient, batch)
