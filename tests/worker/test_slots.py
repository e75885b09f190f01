"""Which device each process sees: decided without CUDA, before torch, and never one that is not the operator's."""

from pathlib import Path

import pytest

from audit.errors import UsageError
from audit.settings import Settings, read_settings
from worker.slots import plan_slots


def devices(environ: dict[str, str], nvidia: Path, **settings: object) -> list[str]:
    return [slot.device for slot in plan_slots(Settings.model_validate(settings), environ, nvidia=nvidia)]


def test_without_a_gpu_there_is_one_slot_on_cpu(tmp_path: Path) -> None:
    """Sane defaults: nothing to set on a laptop."""
    assert devices({}, tmp_path) == ["cpu"]
    for nothing in ("", "-1", "NoDevFiles"):
        assert devices({"CUDA_VISIBLE_DEVICES": nothing}, tmp_path) == ["cpu"]
    assert devices({"CUDA_VISIBLE_DEVICES": "2,-1,3"}, tmp_path, slots_per_device=1) == ["2"], "as CUDA reads it"


def test_every_gpu_gets_two_slots_in_turn(tmp_path: Path) -> None:
    """Two processes overlap each other's gaps, and neighbours in number sit on different devices."""
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / bus).mkdir()
    assert devices({}, tmp_path) == ["0", "1", "0", "1"]


def test_the_operators_devices_are_kept_as_they_are_named(tmp_path: Path) -> None:
    """UUIDs and indices pass through; what was not offered is refused."""
    offered = {"CUDA_VISIBLE_DEVICES": "GPU-1111, 3"}
    assert devices(offered, tmp_path, slots_per_device=1) == ["GPU-1111", "3"]
    assert devices(offered, tmp_path, slots_per_device=1, devices="3") == ["3"]
    with pytest.raises(UsageError, match="names 4"):
        devices(offered, tmp_path, devices="4")


@pytest.mark.parametrize("bad", ["0,0", "cpu,1", ",", " "])
def test_nonsense_is_refused(tmp_path: Path, bad: str) -> None:
    """A typo must not run the night's work on the wrong device."""
    with pytest.raises(UsageError, match="AUDIT_DEVICES"):
        devices({}, tmp_path, devices=bad)


def test_a_slot_hides_the_other_devices_and_shares_the_cores(tmp_path: Path) -> None:
    """A CPU slot must not start CUDA; a process must not start a thread a core."""
    slot = plan_slots(
        Settings.model_validate({"devices": "cpu", "slots_per_device": 4, "torch_threads": 3}), {}, nvidia=tmp_path
    )[3]
    assert slot.environment() == {
        "CUDA_VISIBLE_DEVICES": "",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }
    assert (slot.number, slot.torch_device) == (3, "cpu")


def test_celerys_own_variables_may_not_overrule_the_settings() -> None:
    """Celery lets them win silently; a worker on another broker judges nothing."""
    with pytest.raises(UsageError, match="CELERY_BROKER_URL"):
        read_settings({"CELERY_BROKER_URL": "redis://elsewhere/0"})
    with pytest.raises(UsageError, match="CELERY_RESULT_BACKEND"):
        read_settings({"CELERY_RESULT_BACKEND": "redis://elsewhere/0"})
