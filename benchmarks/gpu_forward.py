"""The engine alone, in a process of its own: `python -m benchmarks.gpu_forward DIRECTORY DEVICE PRECISION` prints JSON.

For each micro-batch size: pairs/s of the median pass, milliseconds a pass, and the most memory that torch had reserved.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import torch

from audit.errors import DeviceTooSmall, OutOfDeviceMemory
from benchmarks.drawn_pairs import heldout_pairs
from worker.engines.base import Question
from worker.engines.model_files import inspect_model
from worker.engines.ofa import OfaEngine, Precision, load_ofa

SIZES = {"cuda": (1, 2, 4, 8, 16, 32, 64, 128, 256), "cpu": (1, 2, 4)}
SECONDS_A_SIZE, FEWEST_PASSES = 3.0, 3


def measure(directory: Path, device: str, precision: Precision) -> dict[str, object]:
    """Load once, then one size after the other until the memory ends."""
    began = time.perf_counter()
    files = inspect_model(directory)
    hashed_s, began = time.perf_counter() - began, time.perf_counter()
    try:
        engine = load_ofa(files, device=device, precision=precision)
    except DeviceTooSmall as error:
        return {"refused": error.detail}
    load_s = time.perf_counter() - began
    sizes = SIZES["cpu" if device == "cpu" else "cuda"]
    questions = [
        Question(image=engine.prepare(picture), caption=caption, premise=premise)
        for picture, caption, premise in heldout_pairs(max(sizes))
    ]
    rows: list[dict[str, float]] = []
    for size in sizes:
        row = _row(engine, questions[:size])
        if row is None:
            break
        rows.append(row)
        print(f"{precision} {size}: {row}", file=sys.stderr, flush=True)
    memory = engine.memory()
    return {
        "name": engine.hardware.name,
        "software": engine.hardware.software,
        "total_gb": memory.total_bytes / 1e9 if memory else 0.0,
        "weights_gb": memory.weights_bytes / 1e9 if memory else 0.0,
        "hashed_s": hashed_s,
        "load_s": load_s,
        "rows": rows,
    }


def _row(engine: OfaEngine, questions: list[Question]) -> dict[str, float] | None:
    engine.release_memory()
    passes: list[float] = []
    try:
        engine.judge(questions)
        began = time.perf_counter()
        while len(passes) < FEWEST_PASSES or time.perf_counter() - began < SECONDS_A_SIZE:
            last = time.perf_counter()
            engine.judge(questions)
            passes.append(time.perf_counter() - last)
    except OutOfDeviceMemory:
        return None
    pass_s, memory = statistics.median(passes), engine.memory()
    return {
        "size": len(questions),
        "pairs_a_s": len(questions) / pass_s,
        "pass_ms": pass_s * 1000,
        "peak_gb": memory.peak_bytes / 1e9 if memory else 0.0,
    }


def main() -> None:
    """Measure what the command line names."""
    directory, device, precision = sys.argv[1:]
    if device == "cpu":
        torch.set_num_threads(2)
    if precision not in ("fp32", "bf16"):
        raise SystemExit(f"no such precision: {precision}")
    print(json.dumps(measure(Path(directory), device, "bf16" if precision == "bf16" else "fp32")))


if __name__ == "__main__":
    main()
