"""Devices that cannot be used are refused before any model is read: one line, the cure, and the right exit status."""

import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from audit.errors import AuditError
from audit.settings import Settings
from tests.support.running import ROOT, changed, variables
from worker.devices import check_devices
from worker.slots import plan_slots

STAND_IN = """
import os
__version__ = "9.9+stand-in"
class version:
    cuda, hip = "13.0", None
class _Number:
    def add_(self, _): return self
    def item(self): return 2.0
def ones(*_, **__): return _Number()
class cuda:
    @staticmethod
    def init():
        with open(os.path.join(os.path.dirname(__file__), "seen"), "a") as seen:
            seen.write(os.environ["CUDA_VISIBLE_DEVICES"] + "\\n")
        {init}
    @staticmethod
    def get_device_name(_): return "NVIDIA Imaginary"
"""


def check(folder: Path, monkeypatch: pytest.MonkeyPatch, init: str, devices: str = "7") -> None:
    """With a torch whose CUDA does what `init` says, as a driver's trouble looks from Python."""
    (folder / "torch.py").write_text(STAND_IN.replace("{init}", init))
    monkeypatch.syspath_prepend(str(folder))
    check_devices(plan_slots(Settings.model_validate({"devices": devices}), {}), os.environ)


@pytest.mark.parametrize(
    ("init", "status", "told"),
    [
        ('raise RuntimeError("No CUDA GPUs are available")', 2, "7 is no CUDA device of this machine"),
        ('raise RuntimeError("Found no NVIDIA driver on your system.\\nmore")', 69, "Found no NVIDIA driver"),
        ('raise AssertionError("CUDA driver version is too old")', 69, "too old"),
        ("os._exit(3)", 69, "exit status 3"),
    ],
)
def test_what_is_wrong_with_a_device_is_told_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init: str, status: int, told: str
) -> None:
    """A number that is not there is the operator's to mend (2); a driver that does not answer may come back (69)."""
    with pytest.raises(AuditError) as refused:
        check(tmp_path, monkeypatch, init)
    assert refused.value.exit_status == status
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_each_device_is_asked_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process a device: CUDA stops reading its list at the first name that it does not know."""
    check(tmp_path, monkeypatch, "pass", devices="GPU-1111,MIG-2222,3")
    assert sorted((tmp_path / "seen").read_text().split()) == ["3", "GPU-1111", "MIG-2222"]


def test_a_look_that_cannot_be_ended_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs in a driver outlives its kill; a refusal must not hang with it."""
    seen = tmp_path / "seen"
    hang = '(subprocess.Popen(["sleep", "90"]), open(path, "a").write("hangs"), time.sleep(90))'  # holds the pipes
    wait = '[time.sleep(0.05) for _ in range(1200) if "hangs" not in open(path).read()]'
    init = (
        f"import subprocess, time; path = {str(seen)!r}; "
        f'{hang} if os.environ["CUDA_VISIBLE_DEVICES"] == "3" else {wait}; raise RuntimeError("no NVIDIA driver")'
    )
    began = time.monotonic()
    with pytest.raises(AuditError, match="device 7 does not compute"):
        check(tmp_path, monkeypatch, init, devices="7,3")
    assert "hangs" in seen.read_text()
    assert time.monotonic() - began < 80


def test_cpu_slots_ask_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop must not wait for torch twice."""
    check(tmp_path, monkeypatch, "os._exit(3)", devices="cpu")
    assert not (tmp_path / "seen").exists()


@pytest.mark.skipif("+cpu" not in importlib.metadata.version("torch"), reason="this torch is built with CUDA")
def test_a_gpu_without_a_cuda_build_of_torch_is_refused_at_once(sqlite_settings: Settings) -> None:
    """Three loads of a model that can only fail would take minutes, and say less."""
    wanted = changed(sqlite_settings, engine="ofa", model="demo", devices="0")
    told = subprocess.run(
        [sys.executable, "-m", "ops.cli", "worker"],
        cwd=ROOT,
        env={**os.environ, **variables(wanted)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert told.returncode == 2
    assert "install a CUDA build of torch, or set AUDIT_DEVICES=cpu" in told.stderr.splitlines()[-1]
    assert "Traceback" not in told.stderr
    assert "slot pinned" not in told.stderr
