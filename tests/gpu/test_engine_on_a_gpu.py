"""The engine on a real device, each test in a process of its own: this one stays free of CUDA."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.gpu

PRECISION = """
import json
from audit.settings import DEMO_MODEL
from benchmarks.precision import compare
from worker.engines.model_files import inspect_model
found = compare(inspect_model(DEMO_MODEL), pairs=2000, device="cuda", micro_batch=32)
print(json.dumps({"pairs": found.pairs, "margins": [flip.margin for flip in found.flips],
                  "largest": max(found.differences)}))
"""
AGREES_WITH_CPU = """
import json
from audit.settings import DEMO_MODEL
from benchmarks.drawn_pairs import heldout_pairs
from benchmarks.precision import apart
from worker.engines.base import Question
from worker.engines.model_files import inspect_model
from worker.engines.ofa import load_ofa
files = inspect_model(DEMO_MODEL)
cpu, gpu = (load_ofa(files, device=device, precision="fp32") for device in ("cpu", "cuda"))
asked = [Question(image=cpu.prepare(i), caption=c, premise=p) for i, c, p in heldout_pairs(128)]
there, here = gpu.judge(asked), cpu.judge(asked)
flips = sum(one.label is not other.label for one, other in zip(there, here))
print(json.dumps({"apart": max(map(apart, there, here)), "flips": flips}))
"""
MEMORY = """
import json, torch
from audit.errors import DeviceTooSmall, OutOfDeviceMemory
from audit.settings import DEMO_MODEL
from worker.engines.base import Question
from worker.engines.canary import draw_canary
from worker.engines.model_files import inspect_model
from worker.engines.ofa import load_ofa
files = inspect_model(DEMO_MODEL)
engine = load_ofa(files, device="cuda", precision="bf16")
question = Question(image=engine.prepare(draw_canary()), caption="a red circle")
before = engine.judge([question])
free, total = torch.cuda.mem_get_info()
ballast = torch.empty(free - 200_000_000, dtype=torch.uint8, device="cuda")
told = {}
try:
    engine.judge([question] * 2048)
except OutOfDeviceMemory as error:
    told["oom"] = error.code
engine.release_memory()
try:
    load_ofa(files, device="cuda", precision="bf16")
except DeviceTooSmall as error:
    told["small"] = error.detail
del ballast
engine.release_memory()
told["same"] = engine.judge([question]) == before
print(json.dumps(told))
"""
POISON = """
import torch
from audit.errors import PoisonedProcess
from worker.engines.ofa_device import fault_of
index = torch.tensor([10], device="cuda")
try:
    print(torch.zeros(3, device="cuda")[index].sum().item())
except RuntimeError as error:
    print(type(fault_of(error)).__name__)
"""


def answer(gpu: str, program: str) -> str:
    """The last line that the program prints, run on the device."""
    told = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    return told.stdout.splitlines()[-1]


def test_bfloat16_gives_the_labels_of_float32(gpu: str) -> None:
    """2,000 pairs of the shipped model: a label may differ only where float32 itself all but tossed a coin."""
    found = json.loads(answer(gpu, PRECISION))
    assert found["pairs"] == 2000
    assert len(found["margins"]) <= 4
    assert all(margin < 0.1 for margin in found["margins"])
    assert found["largest"] < 0.15


def test_a_gpu_answers_as_a_cpu_does(gpu: str) -> None:
    """In float32 nothing but the order of sums differs."""
    found = json.loads(answer(gpu, AGREES_WITH_CPU))
    assert found["flips"] == 0
    assert found["apart"] < 1e-3


def test_out_of_memory_is_survived_and_told(gpu: str) -> None:
    """A ballast takes the device's memory: a large batch is out of memory, a second model is refused with both
    numbers, and once the ballast is gone the same process answers as before."""
    found = json.loads(answer(gpu, MEMORY))
    assert found["oom"] == "out_of_device_memory"
    assert "GB free" in found["small"]
    assert found["same"]


def test_a_device_side_assert_poisons_the_process(gpu: str) -> None:
    """An index out of bounds on the device: every later answer of the process would fail or lie."""
    assert answer(gpu, POISON) == "PoisonedProcess"
