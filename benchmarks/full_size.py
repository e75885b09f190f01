"""A full-size OFA through the whole system on the CPU: memory of its process, seconds a pair, float32 and bfloat16.

    python -m benchmarks.full_size [--pairs 20] [--model DIRECTORY] [--write]

Makes OFA-large with random weights (473 million parameters, 1.9 GB, in a temporary folder), submits drawn pairs, and
has a real worker judge them: manifest, SQLite, Redis, Celery, one process on the CPU, once with AUDIT_PRECISION=fp32
and once with bf16. Random weights say nothing about the labels of real ones; time and memory are those of any weights.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil

from audit.models import WEIGHTS
from audit.settings import Settings
from benchmarks.submit_rate import machine
from db.exports import OutcomeRow
from demo.captions import LABELS, sample_example
from demo.drawing import draw
from demo.scenes import sample_scene
from demo.wordings import training_wordings
from tests.support.redis_server import RedisServer, find_redis
from tests.support.running import Worker, check_promises, finished, running, submitted, told

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "full_size_model.md"
MAKE = """
import sys
from pathlib import Path
from parity.large import write_large
write_large(Path(sys.argv[1]), sys.argv[2:], seed=5)
"""
PATIENCE_S = 3600
PAIR_LIMIT_S, LEASE_S = 60, 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Of one process, in MB: resident now, its part that is no file's, and the highest that was ever resident."""

    resident: float
    anonymous: float
    peak: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One precision: seconds to load and prove the model, memory then and at the end, and what the pairs cost."""

    precision: str
    load_s: float
    ready: Memory
    end: Memory
    main_mb: float
    threads: int
    cpu_s: float
    rows: Sequence[OutcomeRow]

    @property
    def model_s(self) -> list[float]:
        """Seconds of the model, pair by pair."""
        return [(row.model_ms or 0) / 1000 for row in self.rows]


def write_manifest(folder: Path, pairs: int) -> tuple[Path, list[str]]:
    """Drawn pictures of four sizes with captions about them, every fourth with a premise; and the texts."""
    rng, folder = Random(11), folder / "pairs"
    folder.mkdir()
    rows = []
    for number in range(pairs):
        scene = sample_scene(rng)
        caption = sample_example(scene, rng, training_wordings(), label=rng.choice(LABELS)).caption
        premise = sample_example(scene, rng, training_wordings(), label="yes").caption if number % 4 == 3 else ""
        side = (96, 480, 800, 1200)[number % 4]
        draw(scene).resize((side, side * 3 // 4)).save(folder / f"{number}.jpg")
        rows.append((f"p{number}", f"{number}.jpg", caption, premise))
    manifest = folder / "pairs.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "image", "caption", "premise"), *rows])
    return manifest, [text for row in rows for text in row[2:] if text]


def make_model(folder: Path, texts: Sequence[str]) -> Path:
    """The random model, made by a process of its own: what it needs must not be counted here."""
    folder.mkdir()
    subprocess.run([sys.executable, "-c", MAKE, folder, *texts], cwd=ROOT, check=True)
    return folder


def measure(settings: Settings, manifest: Path, folder: Path) -> Run:
    """Submit, and have a worker judge all of it."""
    with running(settings, folder) as worker:
        (proved,) = worker.wait_for("model proved", timeout_s=PATIENCE_S)
        child = psutil.Process(proved["pid"])
        ready, before = _memory(child), _cpu_s(child)
        batch = submitted(settings, manifest)
        finished(settings, batch, timeout_s=PATIENCE_S, watch=worker)
        run = Run(
            precision=settings.precision,
            load_s=proved["took_s"],
            ready=ready,
            end=_memory(child),
            main_mb=psutil.Process(worker.process.pid).memory_info().rss / 1e6,
            threads=_threads(worker),
            cpu_s=_cpu_s(child) - before,
            rows=sorted(told(settings, batch).values(), key=lambda row: row.row),
        )
    check_promises(settings, batch)
    return run


def _memory(process: psutil.Process) -> Memory:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    parts = (kilobytes[name] * 1024 / 1e6 for name in ("VmRSS", "RssAnon", "VmHWM"))
    resident, anonymous, peak = parts
    return Memory(resident=resident, anonymous=anonymous, peak=peak)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _threads(worker: Worker) -> int:
    return worker.settings.torch_threads or os.cpu_count() or 1


def compare(left: Run, right: Run) -> str:
    """How far two runs are apart."""
    flips = sum(one.label != other.label for one, other in zip(left.rows, right.rows, strict=True))
    gaps = [
        abs((getattr(one, name) or 0) - (getattr(other, name) or 0))
        for one, other in zip(left.rows, right.rows, strict=True)
        for name in ("p_yes", "p_no", "p_maybe")
    ]
    apart = f"probabilities by at most {max(gaps):.4f}, half of them by less than {statistics.median(gaps):.5f}"
    return f"{right.precision} against {left.precision}: {flips} of {len(left.rows)} labels differ, {apart}."


def report(runs: Sequence[Run], *, command: str, weights_mb: float) -> str:
    """The results as Markdown."""
    pairs = len(runs[0].rows)
    labels = ", ".join(f"{name} {sum(row.label == name for row in runs[0].rows)}" for name in ("Yes", "No", "Maybe"))
    lines = [
        "# A full-size model through the whole system, on a CPU",
        "",
        "OFA-large's configuration (473 million parameters, pictures of 480 x 480) with random weights:",
        f"{weights_mb:,.0f} MB of float32 safetensors. {pairs} drawn pairs, every fourth with a premise, go one by one",
        "through `submit`, SQLite, Redis and one process of a Celery worker; then the ledger is asked.",
        f"AUDIT_PAIR_LIMIT_S is {PAIR_LIMIT_S}, AUDIT_LEASE_S is {LEASE_S}.",
        "",
        "**Random weights prove nothing about labels.** What is measured is that such a model loads, proves its canary",
        "and judges, in how much memory and time. Whether bfloat16 changes the labels of trained weights is another",
        "question.",
        "",
        f"Command: `{command}`",
        f"Machine: {machine()}. Other work ran on it: CPU seconds are the steadier figure.",
        "",
        "| precision | load and canary | first pair | median pair | slowest | CPU s a pair | threads |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        seconds = run.model_s
        lines.append(
            f"| {run.precision} | {run.load_s:.1f} s | {seconds[0]:.2f} s | {statistics.median(seconds):.2f} s | "
            f"{max(seconds):.2f} s | {run.cpu_s / pairs:.2f} s | {run.threads} |"
        )
    lines += [
        "",
        "| precision | peak of the process | resident when ready | anonymous | resident at the end | main process |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        lines.append(
            f"| {run.precision} | {run.end.peak:,.0f} MB | {run.ready.resident:,.0f} MB | "
            f"{run.ready.anonymous:,.0f} MB | {run.end.resident:,.0f} MB | {run.main_mb:,.0f} MB |"
        )
    lines += [
        "",
        "Resident memory counts mapped pages of the weights' file. With float32 they are the weights, shared with all",
        "processes that map them, and the kernel may drop them. With bfloat16 they are read once, while the private",
        "(anonymous) copy of half the size is made, and unmapped then: the peak holds both.",
        "",
        f"Labels in {runs[0].precision}: {labels}.",
    ]
    lines += [compare(runs[0], run) for run in runs[1:]]
    lines += [
        "",
        f"The slowest pair took {max(max(run.model_s) for run in runs):.1f} s. By default a pair may take 20 s, and a",
        "process without a result for 30 s counts as hanging: set both higher for such a model on a shared CPU.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and with --write keep the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--model", type=Path, help="measure this directory instead of a random model")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    arguments = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory(prefix="ca-bench-") as name:
        folder = Path(name)
        manifest, texts = write_manifest(folder, arguments.pairs)
        model = arguments.model or make_model(folder / "ofa-large-random", texts)
        redis = RedisServer(str(find_redis()))
        redis.start()
        try:
            for precision in ("fp32", "bf16"):
                home = folder / precision
                home.mkdir()
                fields = {"home": home, "redis_url": redis.url, "model": str(model), "devices": "cpu"}
                limits = {"pair_limit_s": PAIR_LIMIT_S, "lease_s": LEASE_S}
                settings = Settings.model_validate(fields | limits | {"engine": "ofa", "precision": precision})
                runs.append(measure(settings, manifest, home))
                print(f"{precision}: {statistics.median(runs[-1].model_s):.2f} s a pair", flush=True)
        finally:
            redis.close()
        weights_mb = sum((model / file).stat().st_size for file in WEIGHTS if (model / file).exists()) / 1e6
    text = report(
        runs, command=f"python -m benchmarks.full_size --pairs {arguments.pairs} --write", weights_mb=weights_mb
    )
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
