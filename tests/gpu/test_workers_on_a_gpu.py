"""Whole workers on a real device."""

import json
from pathlib import Path

import pytest

from audit.settings import Settings
from demo.samples import write_samples
from tests.support.running import changed, check_promises, finished, running, submitted, told
from tests.support.waiting import wait_until

pytestmark = pytest.mark.gpu


@pytest.fixture
def on_gpu(sqlite_settings: Settings, gpu: str) -> Settings:
    """The shipped model, two slots on one device."""
    return changed(
        sqlite_settings, engine="ofa", model="demo", devices=gpu, slots_per_device=2, chunk_pairs=16, cache=False
    )


def test_two_processes_on_one_device_both_judge(on_gpu: Settings, tmp_path: Path) -> None:
    """Each sees one device alone and computes in bf16 where the device does; the parent has no CUDA."""
    manifest = write_samples(tmp_path / "samples", 960)
    with running(on_gpu, tmp_path) as worker:
        ready = on_gpu.home / "run" / f"worker-{worker.process.pid}.json"
        wait_until(
            lambda: ready.exists() and len(json.loads(ready.read_text())["ready"]) == 2,
            timeout_s=240,
            what=f"both slots to be ready{worker.tail()}",
        )
        batch = submitted(on_gpu, manifest)
        finished(on_gpu, batch, watch=worker, timeout_s=240)
        pinned = worker.events("slot pinned")
        measured = worker.events("micro-batch measured")
        maps = Path(f"/proc/{worker.process.pid}/maps").read_text()
    assert {event["visible"] for event in pinned} == {on_gpu.devices}
    assert not any(event["torch_imported"] for event in pinned)
    assert len(measured) == 1
    assert "libcuda" not in maps, "a parent with a CUDA context could not fork children that use it"
    rows = told(on_gpu, batch).values()
    verdicts = [row for row in rows if row.label is not None]
    assert {row.worker[-2:] for row in verdicts} == {":0", ":1"}
    assert {row.device for row in verdicts} == {f"cuda:{on_gpu.devices}"}
    assert {row.precision for row in verdicts} <= {"bf16", "fp32"}
    assert len({row.precision for row in verdicts}) == 1
    check_promises(on_gpu, batch)


def test_a_micro_batch_that_is_too_large_for_the_device_costs_no_pair(on_gpu: Settings, tmp_path: Path) -> None:
    """1,024 pairs a pass may or may not fit; every pair is judged either way."""
    greedy = changed(on_gpu, micro_batch=1024, chunk_pairs=1024)
    batch = submitted(greedy, write_samples(tmp_path / "samples", 960))
    with running(greedy, tmp_path) as worker:
        finished(greedy, batch, watch=worker, timeout_s=290)
    assert all(row.failure_code != "out_of_device_memory" for row in told(greedy, batch).values())
    check_promises(greedy, batch)


def test_a_number_that_is_no_device_is_refused(on_gpu: Settings, tmp_path: Path) -> None:
    """Status 2 and one line, before any model is read."""
    with running(changed(on_gpu, devices="97"), tmp_path) as worker:
        assert worker.process.wait(timeout=120) == 2
        assert "97" in worker.tail().splitlines()[-1]
