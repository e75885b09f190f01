"""What logs, metrics, traces, health and canaries cost in CPU seconds, with the shipped model.

    python -m benchmarks.telemetry_cost [--pairs 1024] [--rounds 8] [--write]

Each round is two runs, one after the other, the order alternating: a real worker with one thread judges held-out pairs
of the drawn world with everything on (JSON lines at INFO to files, spans of every pair to an OTLP receiver, metrics
scraped every 5 s, health asked every 5 s, canaries every 30 s), and the same worker with everything off (ERROR lines
alone, no port, no canaries, and no stages, spans or counters in its code: benchmarks/telemetry_cost_worker.py). CPU
seconds are those of all the worker's processes, from the end of the first chunk to the end of the last one. The
receiver takes requests and parses nothing: it shares the processor here, and would slow the worker down.
"""

import argparse
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from audit.settings import Settings
from benchmarks.drawn_pairs import heldout_pairs
from benchmarks.ledger_cost import cpu_s
from benchmarks.submit_rate import RESULTS as SUBMIT_RESULTS
from benchmarks.submit_rate import ROOT, fresh_ledger, machine
from db.queries import progress
from producer import submit
from tests.support.manifests import write_csv
from tests.support.otlp_receiver import Receiver, receiving
from tests.support.ports import free_port
from tests.support.processes import environment
from tests.support.redis_server import RedisServer, find_redis
from tests.support.running import ledger, results
from tests.support.waiting import wait_until

RESULTS = SUBMIT_RESULTS.with_name("telemetry_cost.md")
CHUNK = 64
ASKED_EVERY_S = 5.0
PATIENCE_S = 900
GOAL = 0.03
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26, 11: 2.23, 12: 2.20}
"""Student's t for 95 %, two-sided, by the number of values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One batch: wall seconds, CPU seconds of the main process and of its children, the machine's load."""

    seconds: float
    main_s: float
    children_s: float
    load: float

    @property
    def cpu_s(self) -> float:
        """Of all the worker's processes."""
        return self.main_s + self.children_s


def manifest(folder: Path, pairs: int) -> Path:
    """Held-out pairs as files."""
    rows = []
    for number, (picture, caption, _) in enumerate(heldout_pairs(pairs)):
        name = f"{number // 4}.png"
        if not (folder / name).exists():
            picture.save(folder / name)
        rows.append((f"p{number}", name, caption))
    return write_csv(folder / "pairs.csv", rows)


def settings_of(way: str, home: Path, *, database_url: str, redis_url: str) -> Settings:
    """Of a worker with everything on, or off."""
    common = {"home": home, "database_url": database_url, "redis_url": redis_url, "devices": "cpu", "cache": False}
    common |= {"chunk_pairs": CHUNK, "torch_threads": 1}
    if way == "off":
        return Settings.model_validate({**common, "http_port": 0, "log_level": "error", "canary_every_s": 0})
    return Settings.model_validate({**common, "http_port": free_port(), "log_format": "json", "log_files": True})


@contextmanager
def asking(settings: Settings) -> Iterator[Counter[str]]:
    """Scrape and ask for health now and then, as a Prometheus and a balancer do; counts what answered."""
    answered: Counter[str] = Counter()
    done = threading.Event()

    def ask() -> None:
        while not done.wait(ASKED_EVERY_S):
            for path in ("/metrics", "/health"):
                with (
                    suppress(OSError),
                    urllib.request.urlopen(f"http://127.0.0.1:{settings.http_port}{path}", timeout=5) as answer,
                ):
                    answered[f"{path} {answer.status} {len(answer.read()) > 0}"] += 1

    thread = threading.Thread(target=ask, daemon=True)
    if settings.http_port:
        thread.start()
    yield answered
    done.set()
    if settings.http_port:
        thread.join()


def run_once(way: str, settings: Settings, pairs: Path, receiver: Receiver) -> tuple[Run, Counter[str]]:
    """A fresh worker judges the batch; also returns its results, counted."""
    sent = submit(pairs, settings=settings)
    module = "ops.cli" if way == "on" else "benchmarks.telemetry_cost_worker"
    command = [sys.executable, "-m", module, *(["worker"] if way == "on" else [])]
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url} if way == "on" else {"OTEL_SDK_DISABLED": "true"}
    with (settings.home / "stderr").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(settings) | traced, stdout=output, stderr=output, start_new_session=True
        )
    try:
        with asking(settings) as answered, ledger(settings) as database:
            what = f"a worker, see {settings.home}/stderr"
            wait_until(lambda: progress(database, sent.batch).judged >= CHUNK, timeout_s=PATIENCE_S, what=what)
            before, began = cpu_s(process.pid), time.monotonic()
            wait_until(lambda: progress(database, sent.batch).finished, timeout_s=PATIENCE_S, what=what)
            after, ended = cpu_s(process.pid), time.monotonic()
        if way == "on":
            assert {"/metrics 200 True", "/health 200 True"} <= set(answered), answered
        main_s, children_s = (now - then for now, then in zip(after, before, strict=True))
        run = Run(seconds=ended - began, main_s=main_s, children_s=children_s, load=round(os.getloadavg()[0], 1))
        return run, Counter(results(settings, sent.batch).values())
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measure(pairs: int, rounds: int) -> Iterator[tuple[Run, Run]]:
    """(on, off) of each round; the verdicts of both must be the same."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ca-bench-")))
        given = manifest(folder, CHUNK + pairs)
        redis = RedisServer(str(find_redis()))
        stack.callback(redis.close)
        redis.start()
        receiver = stack.enter_context(receiving(keep=False))
        for number in range(rounds):
            done: dict[str, tuple[Run, Counter[str]]] = {}
            for way in ("on", "off") if number % 2 else ("off", "on"):
                home = folder / f"{number}-{way}"
                home.mkdir()
                with redis.client() as client:
                    client.flushall()
                with fresh_ledger(home, None) as url:
                    settings = settings_of(way, home, database_url=url, redis_url=redis.url)
                    done[way] = run_once(way, settings, given, receiver)
            assert done["on"][1] == done["off"][1], done
            yield done["on"][0], done["off"][0]
        assert receiver.taken_bytes > rounds * pairs * 100, "nothing was traced"


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean, and the ends of its 95 % interval (Student's t)."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = T_95.get(len(values), 2.2) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def report(runs: list[tuple[Run, Run]], pairs: int, command: str) -> str:
    """The page."""
    mean, low, high = interval([on.cpu_s / off.cpu_s - 1 for on, off in runs])
    lines = [
        "# What telemetry costs",
        "",
        f"CPU seconds of a real worker that judges {pairs:,} held-out pairs with the shipped model, one thread: with",
        "everything on (JSON lines at INFO to files, spans of every pair to an OTLP receiver, metrics and health asked",
        "every 5 s, canaries every 30 s) against the same program with everything off, its stages, spans and counters",
        "taken out (benchmarks/telemetry_cost_worker.py). One after the other, the order alternating; all the",
        "worker's processes, from the end of the first chunk to the end of the last one. The verdicts are the same.",
        "The receiver takes requests and parses nothing: one that did, on the other half of the same core, made the",
        "worker's own seconds 8 to 15 % more, which is the machine's doing and not the worker's.",
        "",
        f"Command: `{command}`",
        f"Machine: {machine()}",
        "",
        "| round | on: CPU s (main process) | off: CPU s (main process) | on / off | load |",
        "|---|---|---|---|---|",
    ]
    for number, (on, off) in enumerate(runs, start=1):
        lines.append(
            f"| {number} | {on.cpu_s:.2f} ({on.main_s:.2f}) | {off.cpu_s:.2f} ({off.main_s:.2f}) "
            f"| {on.cpu_s / off.cpu_s:.3f} | {on.load} |"
        )
    goal = "reached" if mean <= GOAL else "not reached"
    lines += [
        "",
        f"**{mean:+.1%}** of CPU seconds (95 % interval {low:+.1%} to {high:+.1%}); the goal of at most 3 % is {goal}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and with --write keep the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    runs = []
    for on, off in measure(arguments.pairs, arguments.rounds):
        print(f"on {on.cpu_s:.2f} s, off {off.cpu_s:.2f} s: {on.cpu_s / off.cpu_s:.3f}", flush=True)
        runs.append((on, off))
    command = f"python -m benchmarks.telemetry_cost --pairs {arguments.pairs} --rounds {arguments.rounds} --write"
    text = report(runs, arguments.pairs, command)
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
