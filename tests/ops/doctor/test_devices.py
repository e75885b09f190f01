"""Drivers, GPUs and torch that do not go together: with a torch and a driver that stand in for those of a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from audit.settings import Settings
from ops.doctor.devices import cuda_devices, device_lines
from ops.doctor.lines import State
from ops.doctor.memory import memory_limit, memory_lines
from ops.doctor.nvml import Driver, read_driver
from ops.doctor.torch import driver_line, torch_lines
from tests.ops.conftest import ROOT
from tests.ops.doctor.conftest import LIMIT_S, Named
from tests.support.cgroups import memory_group
from tests.support.fake_nvml import FakeNvml
from tests.worker.test_devices import STAND_IN

COMPUTES = "pass"
ASK = """
import json, sys, os
from audit.settings import read_settings
from ops.doctor.devices import device_lines
from ops.doctor.torch import torch_lines
environ = dict(os.environ)
look = {"devices": lambda: device_lines(read_settings(environ), environ, limit_s=60),
        "torch": lambda: torch_lines(environ, sys.argv[2].split(","), limit_s=60)}[sys.argv[1]]
print(json.dumps({line.name: [line.state.value, line.found, line.means] for line in look()}))
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A folder with a torch for CUDA 13.0 that computes."""
    folder = tmp_path / "torch"
    folder.mkdir()
    (folder / "torch.py").write_text(STAND_IN.replace("{init}", COMPUTES))
    return folder


def told(topic: str, torch: Path, nvml: FakeNvml | None, devices: str) -> dict[str, list[str]]:
    """State, found and meaning by name, in a process that finds this torch and this driver."""
    environ = {**os.environ, "PYTHONPATH": f"{torch}{os.pathsep}{ROOT}", "AUDIT_DEVICES": devices}
    if nvml is not None:
        environ["LD_LIBRARY_PATH"] = nvml.folder
    command = [sys.executable, "-c", ASK, topic, devices]
    ended = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 0, ended.stderr
    lines: dict[str, list[str]] = json.loads(ended.stdout)
    return lines


def test_without_a_driver_the_cpu_is_ok_and_a_gpu_is_wrong(named: Named) -> None:
    """Most machines have none; but whoever names a GPU wants one."""
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("there is a driver here")
    assert read_driver() is None
    assert driver_line("13.0", None, []).state is State.OK
    assert driver_line("13.0", None, ["0"]).state is State.WRONG
    cpu = Settings.model_validate({"devices": "cpu"})
    assert {line.state for line in device_lines(cpu, os.environ, limit_s=LIMIT_S)} == {State.OK}
    gpu = Settings.model_validate({"devices": "0"})
    assert named(device_lines(gpu, os.environ, limit_s=LIMIT_S), "device 0").state is State.WRONG


def test_settings_of_devices_that_are_refused_are_wrong(named: Named) -> None:
    """A worker would not start."""
    settings, environ = Settings.model_validate({"devices": "3"}), {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert named(device_lines(settings, environ, limit_s=LIMIT_S), "slots").state is State.WRONG
    assert cuda_devices(settings, environ) == []
    assert cuda_devices(settings, {}) == ["3"]


@pytest.mark.parametrize(
    ("cuda", "driver", "devices", "state"),
    [
        ("12.6", (12, 4), ["0"], State.OK),  # a driver serves its own major version
        ("11.8", (12, 4), ["0"], State.OK),  # and older ones
        ("13.0", (12, 4), ["0"], State.WRONG),
        ("13.0", (12, 4), [], State.OK),
        ("", (12, 4), ["0"], State.WRONG),
        ("", (12, 4), [], State.OK),
    ],
)
def test_torch_and_driver_must_go_together(
    cuda: str, driver: tuple[int, int], devices: list[str], state: State
) -> None:
    """An old driver under a new torch is the commonest trouble of all; without slots on a GPU it is none."""
    found = Driver(version="550.54.15", cuda=driver, devices=(), lost=(), processes={})
    assert driver_line(cuda, found, devices).state is state


def test_a_torch_for_a_newer_cuda_than_the_drivers_is_wrong(stand_in: Path, tmp_path: Path) -> None:
    """Through NVML's own interface, with a torch that says what it was built for."""
    old = FakeNvml(tmp_path / "old", pid=1, cuda=12040)
    lines = told("torch", stand_in, old, "0")
    assert lines["torch"][:2] == ["ok", "9.9+stand-in, built for CUDA 13.0"]
    assert lines["driver"][:2] == ["wrong", "550.54.15, for CUDA up to 12.4"]
    assert told("torch", stand_in, FakeNvml(tmp_path / "new", pid=1, cuda=13000), "0")["driver"][0] == "ok"


def test_each_gpu_is_told_with_who_uses_it(stand_in: Path, tmp_path: Path) -> None:
    """Somebody else's program on a GPU is seen in no log of ours."""
    nvml = FakeNvml(tmp_path / "busy", pid=os.getpid(), used=95 * 10**9)
    lines = told("devices", stand_in, nvml, "0")
    assert lines["GPU 0"][0] == "warning"
    assert f"95.0 of 100.0 GB used by process {os.getpid()} (" in lines["GPU 0"][1]
    assert (lines["GPU 1"][0], lines["GPU 1"][2]) == ("ok", "no slot uses it")
    assert lines["device 0"][:2] == ["ok", "computes (NVIDIA Imaginary)"]
    assert told("devices", stand_in, FakeNvml(tmp_path / "idle", pid=1), "0,1")["GPU 1"][0] == "ok"


def test_a_gpu_that_is_not_there_or_lost_or_does_not_compute_is_wrong(stand_in: Path, tmp_path: Path) -> None:
    """Each for itself: the others go on."""
    lines = told("devices", stand_in, FakeNvml(tmp_path / "lost", pid=1, lost=True), "0,1,7")
    states = {name: line[0] for name, line in lines.items()}
    assert states == {
        "slots": "ok",
        "GPU 0": "ok",
        "GPU 1": "wrong",
        "device 0": "ok",
        "device 1": "wrong",
        "device 7": "wrong",
    }
    (stand_in / "torch.py").write_text(STAND_IN.replace("{init}", 'raise RuntimeError("CUDA error: unknown")'))
    lines = told("devices", stand_in, FakeNvml(tmp_path / "sick", pid=1), "GPU-0")
    assert lines["device GPU-0"][:2] == ["wrong", "does not compute: CUDA error: unknown"]


def test_a_driver_that_does_not_answer_is_wrong(stand_in: Path, tmp_path: Path) -> None:
    """After an update without a reboot NVML says that its versions differ (18)."""
    lines = told("devices", stand_in, FakeNvml(tmp_path / "fault", pid=1, init=18), "0")
    assert lines["GPUs"][0] == "wrong"
    assert told("torch", stand_in, FakeNvml(tmp_path / "same", pid=1, init=18), "0")["driver"][0] == "wrong"


def test_a_torch_that_does_not_load_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: Named) -> None:
    """A library that is missing, or a wheel for another machine; the doctor itself lives on."""
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    line = named(torch_lines(os.environ, [], limit_s=LIMIT_S), "torch")
    assert (line.state, "libcudart.so.13" in line.found) == (State.WRONG, True)
    (tmp_path / "torch.py").write_text("import os; os.kill(os.getpid(), 11)")
    assert named(torch_lines(os.environ, [], limit_s=LIMIT_S), "torch").state is State.WRONG
    (tmp_path / "torch.py").write_text("import time; time.sleep(600)")
    assert "no answer within 2 s" in named(torch_lines(os.environ, [], limit_s=2), "torch").found


def test_a_torchvision_of_another_build_is_wrong(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: Named
) -> None:
    """Nothing here uses it, but transformers imports it, and fails with it."""
    monkeypatch.syspath_prepend(str(stand_in))
    assert "torchvision" not in {line.name for line in torch_lines(os.environ, [], limit_s=LIMIT_S)}
    vision = stand_in / "torchvision.py"
    vision.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    line = named(torch_lines(os.environ, [], limit_s=LIMIT_S), "torchvision")
    assert (line.state, "torchvision::nms" in line.found) == (State.WRONG, True)
    vision.write_text("")
    assert named(torch_lines(os.environ, [], limit_s=LIMIT_S), "torchvision").state is State.WARNING


def test_slots_that_fit_into_memory_are_ok(tmp_path: Path, named: Named) -> None:
    """A machine that is small or busy may be warned of."""
    settings = Settings.model_validate({"home": tmp_path, "devices": "cpu", "slots_per_device": 1})
    assert named(memory_lines(settings, {}, now=0.0), "memory").state in (State.OK, State.WARNING)


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    """The host's memory is not the container's: the kernel kills what does not fit, and pairs would be suspected."""
    code = (
        "import sys; from audit.settings import Settings; from ops.doctor.memory import *; sys.stdin.readline()\n"
        "made = Settings.model_validate({'home': sys.argv[1], 'devices': 'cpu', 'slots_per_device': 1})\n"
        "(line,) = memory_lines(made, {}, now=0.0); print(memory_limit(), line.state.value, line.found)"
    )
    pipe = subprocess.PIPE
    with memory_group(megabytes=500) as group:
        command = [sys.executable, "-c", code, str(tmp_path)]
        asked = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        group.take(asked.pid)
        answer, complaint = asked.communicate("go\n", timeout=180)
    assert asked.returncode == 0, complaint
    limit, state, found = answer.split(maxsplit=2)
    assert 499_000_000 <= int(limit) <= 500_000_000
    assert (state, "of this container" in found) == ("wrong", True)


def test_control_groups_of_both_versions_are_read(tmp_path: Path) -> None:
    """The lowest limit above a process is the one that kills it."""
    for folder, text in (("a", "5000"), ("a/b", "max"), ("memory", "9223372036854771712"), ("memory/c", "700")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        name = "memory.limit_in_bytes" if folder.startswith("memory") else "memory.max"
        (tmp_path / folder / name).write_text(f"{text}\n")
    mine = tmp_path / "mine"
    mine.write_text("0::/a/b\n")
    assert memory_limit(tmp_path, mine) == 5000
    mine.write_text("9:cpu:/x\n4:memory:/c\n")
    assert memory_limit(tmp_path, mine) == 700
    assert memory_limit(tmp_path, tmp_path / "absent") is None
