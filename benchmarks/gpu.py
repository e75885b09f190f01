"""How fast a GPU judges: the engine alone, then the whole system with one and with two processes on the device.

    python -m benchmarks.gpu [--device cuda] [--model large|demo|DIRECTORY] [--pairs 4096] [--write]

`large` is made here: OFA-large's configuration with random weights (answers that mean nothing, at the real cost).
The system is real: Redis, Celery, SQLite with synchronous FULL, pictures of 640 x 480 from JPEG files, no cache.
`--device cpu --model demo --pairs 64` runs the same way through on a laptop.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from audit.settings import DEMO_MODEL, Settings
from benchmarks.drawn_pairs import heldout_pairs
from tests.support.manifests import write_csv
from tests.support.redis_server import RedisServer, find_redis
from tests.support.running import Worker, finished, submitted, told
from tests.support.waiting import wait_until
from worker.devices import check_devices
from worker.slots import Slot, plan_slots

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "gpu.md"
DISTINCT_PAIRS = 512
PICTURE = (640, 480)
LIMIT_S = 1800.0


def forward(directory: Path, *, device: str, slot: Slot, precision: str) -> dict[str, Any]:
    """The engine alone, in a process that sees this device and nothing else, as the system's processes do."""
    environ = {**os.environ, **slot.environment()}
    arguments = [sys.executable, "-m", "benchmarks.gpu_forward", str(directory), device, precision]
    output = subprocess.run(
        arguments, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT_S
    )
    answer: dict[str, Any] = json.loads(output.stdout.splitlines()[-1])
    return answer


def system(directory: Path, manifest: Path, *, entry: str, slots: int, redis: str, folder: Path) -> dict[str, Any]:
    """One batch through the whole system; the clock runs from its submission, workers ready, to the last commit."""
    settings = Settings.model_validate(
        {
            "home": folder,
            "model": str(directory),
            "redis_url": redis,
            "devices": entry,
            "slots_per_device": slots,
            "cache": False,
            "chunk_pairs": 64,
            "decode_threads": max(2, (os.cpu_count() or 2) // slots - 1),
        }
    )
    folder.mkdir()
    worker = Worker(settings, log=folder / "worker.log")
    try:
        ready = folder / "run" / f"worker-{worker.process.pid}.json"
        began = time.monotonic()
        wait_until(
            lambda: ready.exists() and len(json.loads(ready.read_text())["ready"]) == slots,
            timeout_s=LIMIT_S,
            what=f"{slots} slots to be ready{worker.tail()}",
        )
        ready_s = time.monotonic() - began
        batch, submitted_at = submitted(settings, manifest), time.time()
        peak_gb = _watch(settings, batch, worker, on_gpu=entry != "cpu")
        rows = [row for row in told(settings, batch).values() if row.label is not None]
        measured = worker.events("micro-batch measured")
    finally:
        worker.stop()
        worker.kill()
    ended_at = max(datetime.fromisoformat(row.judged_at).timestamp() for row in rows)
    model_ms = sorted(row.model_ms or 0.0 for row in rows)
    return {
        "slots": slots,
        "pairs": len(rows),
        "pairs_a_s": len(rows) / max(ended_at - submitted_at, 1e-9),
        "ready_s": ready_s,
        "micro_batch": measured[0]["chosen"] if measured else settings.micro_batch or 1,
        "decode_ms": statistics.median(row.decode_ms or 0.0 for row in rows),
        "model_ms": (statistics.median(model_ms), model_ms[int(0.99 * (len(model_ms) - 1))]),
        "peak_gb": peak_gb,
    }


def _watch(settings: Settings, batch: Any, worker: Worker, *, on_gpu: bool) -> float:
    """Wait for the batch's end; the most memory meanwhile: the device's, or on CPU the processes' own."""
    peak = 0.0

    def looked() -> bool:
        nonlocal peak
        peak = max(peak, _device_gb(settings.devices) if on_gpu else _process_gb(worker))
        try:
            finished(settings, batch, timeout_s=1.0)
        except AssertionError:
            return False
        return True

    wait_until(looked, timeout_s=LIMIT_S, what="the batch to finish")
    return peak


def _device_gb(entry: str) -> float:
    query = ["nvidia-smi", f"--id={entry}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        used_mib = float(subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout)
        return used_mib * 2**20 / 1e9
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0.0


def _process_gb(worker: Worker) -> float:
    try:
        return sum((child.memory_info().rss / 1e9 for child in worker.children()), 0.0)
    except psutil.Error:
        return 0.0


def write_pairs(folder: Path, count: int) -> Path:
    """A manifest of `count` rows about pictures of a usual size; their captions differ, so that each is judged."""
    rows = []
    for number, (picture, caption, _) in enumerate(heldout_pairs(min(count, DISTINCT_PAIRS))):
        name = f"{number // 4}.jpg"
        if number % 4 == 0:
            picture.resize(PICTURE).save(folder / name, quality=90)
        rows.append((name, caption))
    numbered = (
        (f"p{number}", *rows[number % len(rows)][:1], f"{rows[number % len(rows)][1]} {number}")
        for number in range(count)
    )
    return write_csv(folder / "pairs.csv", numbered)


def make_model(name: str, folder: Path) -> Path:
    """The directory that the command line means; `large` is written (1.9 GB)."""
    if name == "demo":
        return DEMO_MODEL
    if name != "large":
        return Path(name)
    from parity.large import write_large

    directory = folder / "random-ofa-large"
    directory.mkdir()
    write_large(directory, [caption for _, caption, _ in heldout_pairs(400)], seed=1)
    return directory


def report(alone: dict[str, dict[str, Any]], whole: Sequence[dict[str, Any]], *, model: str, command: str) -> str:
    """Return the whole page."""
    first = next(iter(alone.values()))
    gpu = first.get("name", "device too small")
    host = f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"
    lines = [
        "# How fast a GPU judges",
        "",
        f"Command: `{command}`",
        f"Device: {gpu}, {first.get('total_gb', 0):.0f} GB, {first.get('software', '')}; {host}",
        f"Model: {model}, weights {first.get('weights_gb', 0):.2f} GB in {next(iter(alone))}",
        "",
        "## The engine alone",
        "",
        "| precision | pairs a pass | pairs/s | ms a pass | reserved GB |",
        "|---|---:|---:|---:|---:|",
    ]
    best = 0.0
    for precision, found in alone.items():
        if "refused" in found:
            lines.append(f"| {precision} | - | {found['refused']} | - | - |")
        for row in found.get("rows", ()):
            best = max(best, row["pairs_a_s"])
            lines.append(
                f"| {precision} | {row['size']} | {row['pairs_a_s']:,.1f} | {row['pass_ms']:,.1f} "
                f"| {row['peak_gb']:.2f} |"
            )
    lines += [
        "",
        "## The whole system",
        "",
        "| processes | pairs | micro-batch | pairs/s | of the engine | ms a pair | p99 | decode ms | GB | ready s |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for run in whole:
        middle, slow = run["model_ms"]
        share = f"{run['pairs_a_s'] / best:.0%}" if best else "-"
        lines.append(
            f"| {run['slots']} | {run['pairs']:,} | {run['micro_batch']} | {run['pairs_a_s']:,.1f} | {share} "
            f"| {middle:.1f} | {slow:.1f} | {run['decode_ms']:.1f} | {run['peak_gb']:.2f} | {run['ready_s']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", default="large", help="large, demo, or a model directory")
    parser.add_argument("--pairs", type=int, default=4096, help="pairs through the whole system")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    chosen = parser.parse_args(arguments)
    first = plan_slots(Settings.model_validate({"devices": "cpu" if chosen.device == "cpu" else "auto"}), os.environ)[0]
    if chosen.device == "cuda" and first.device == "cpu":
        parser.error("there is no CUDA device here; --device cpu --model demo --pairs 64 shows how it runs")
    check_devices([first], os.environ)
    executable = find_redis()
    if executable is None:
        parser.error("there is no redis-server")
    folder = Path(tempfile.mkdtemp(prefix="caption-audit-gpu-"))
    redis = RedisServer(str(executable))
    try:
        redis.start()
        directory = make_model(chosen.model, folder)
        precisions = ("fp32", "bf16") if chosen.device == "cpu" else ("bf16", "fp32")
        alone = {each: forward(directory, device=chosen.device, slot=first, precision=each) for each in precisions}
        manifest = write_pairs(folder, chosen.pairs)
        whole = []
        for slots in (1, 2):
            run = {"entry": first.device, "slots": slots, "redis": redis.url, "folder": folder / f"home-{slots}"}
            whole.append(system(directory, manifest, **run))  # type: ignore[arg-type]  # mixed values by name
            print(whole[-1], file=sys.stderr, flush=True)
    finally:
        redis.close()
        shutil.rmtree(folder, ignore_errors=True)
    command = f"python -m benchmarks.gpu --device {chosen.device} --model {chosen.model} --pairs {chosen.pairs}"
    text = report(alone, whole, model=chosen.model, command=command)
    print(text)
    if chosen.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
