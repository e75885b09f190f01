"""How long nothing is committed while worker processes are replaced in turn, each loading its model for ten seconds.

    python -m benchmarks.recycling [--runs 3] [--recycles 6] [--write]

A real worker with one device and two processes, and the stub engine, on SQLite; a chunk is one pair of 0.2 s, and more
of them than is usual wait in Redis. The gap is the longest time between two committed pairs by the ledger's clock, from
the first replacement to the end of the last one's load. In as many runs again the processes are replaced because their
memory grows, at the same rate in both.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import select

from audit.settings import Settings
from benchmarks.fairness import place
from benchmarks.submit_rate import RESULTS as SUBMIT_RESULTS
from benchmarks.submit_rate import machine
from db import tables
from tests.support.manifests import draw, write_csv
from tests.support.running import changed, ledger, running, submitted
from worker.memory import MB

RESULTS = SUBMIT_RESULTS.with_name("recycling.md")
LOAD_S, PAIR_S = 10.0, 0.2
CHUNKS_A_LIFE = 70
"""More than the other process judges alone while one loads: whoever loads is back before the other has to leave."""
LEAK_MB, GROWTH_MB = 2, 120
PATIENCE_S = 600
GOAL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Replacements of one run, its longest gaps in falling order, the median gap, and what was lost or charged."""

    recycles: int
    gaps_s: Sequence[float]
    median_s: float
    seconds: float
    deaths: int
    attempts: int

    @property
    def longest_s(self) -> float:
        """The longest time without a committed pair."""
        return self.gaps_s[0]


def measure(settings: Settings, folder: Path, *, recycles: int, leak: bool) -> Run:
    """One worker, from its start until `recycles` replacements have loaded."""
    draw(folder / "red.png")
    order = f"stub:leak={LEAK_MB} " if leak else ""
    rows = [(f"p{number}", "red.png", f"{order}{number}") for number in range(400 * recycles)]
    batch = submitted(settings, write_csv(folder / "pairs.csv", rows))
    with running(settings, folder) as worker:
        worker.wait_for("model proved", count=2, timeout_s=PATIENCE_S)
        worker.wait_for("worker process recycled", count=recycles, timeout_s=PATIENCE_S)
        worker.wait_for("model proved", count=2 + recycles, timeout_s=PATIENCE_S)
        replaced = worker.events("worker process recycled")
        deaths = len(worker.events("claim taken over")) + len(worker.events("worker process leaves"))
        first, last = _at(replaced[0]), _at(worker.events("model proved")[1 + recycles])
        worker.stop()
    outcomes = tables.outcomes.c
    with ledger(settings) as database, database.reading() as connection:
        found = connection.execute(select(outcomes.judged_at, outcomes.attempt).where(outcomes.batch == batch)).all()
    times = sorted(row.judged_at for row in found if first <= row.judged_at <= last)
    gaps = sorted((later - earlier for earlier, later in pairwise(times)), reverse=True)
    return Run(
        recycles=len(replaced),
        gaps_s=gaps[:5],
        median_s=statistics.median(gaps),
        seconds=last - first,
        deaths=deaths,
        attempts=max(row.attempt for row in found),
    )


def _at(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(str(event["timestamp"])).timestamp()


def runs(count: int, *, recycles: int, leak: bool) -> Iterator[Run]:
    """One after the other, each with a ledger and a Redis of its own."""
    for _ in range(count):
        with tempfile.TemporaryDirectory() as name, place(Path(name)) as settings:
            quick = changed(
                settings,
                slots_per_device=2,
                stub_load_s=LOAD_S,
                stub_pair_s=PAIR_S,
                chunk_pairs=1,
                feed_chunks_per_slot=16,
                max_tasks_per_child=100_000 if leak else CHUNKS_A_LIFE,
                recycle_rss_growth=GROWTH_MB * MB if leak else 0,
            )
            yield measure(quick, Path(name), recycles=recycles, leak=leak)


def report(by_chunks: Sequence[Run], by_growth: Sequence[Run], command: str) -> str:
    """The results as Markdown."""
    lines = [
        "# The longest pause while processes are replaced",
        "",
        f"Two processes of one device, each {LOAD_S:.0f} s to load, the stub engine at {PAIR_S:g} s a pair, one a",
        "chunk, SQLite. A gap is the time between two committed pairs by the ledger's clock, from the first",
        f"replacement to the end of the last one's load. The goal: none over {GOAL_S:g} s.",
        "",
        f"Command: `{command}`",
        f"Machine: {machine()}",
        "",
        "| replaced | runs | replacements a run | median gap | longest gap, median of the runs | longest, worst run |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, measured in (
        (f"after {CHUNKS_A_LIFE} chunks", by_chunks),
        (f"grown by {GROWTH_MB} MB", by_growth),
    ):
        if measured:
            longest = [run.longest_s for run in measured]
            lines.append(
                f"| {name} | {len(measured)} | {min(run.recycles for run in measured)} "
                f"| {statistics.median(run.median_s for run in measured):.2f} s "
                f"| {statistics.median(longest):.2f} s | {max(longest):.2f} s |"
            )
    tried = max(run.attempts for run in [*by_chunks, *by_growth])
    deaths = sum(run.deaths for run in [*by_chunks, *by_growth])
    lines += ["", f"Processes that died or left otherwise: {deaths}; most attempts of a chunk: {tried}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and with --write keep the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--recycles", type=int, default=6, help="replacements a run")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    measured: list[list[Run]] = []
    for leak in (False, True):
        measured.append([])
        for run in runs(arguments.runs, recycles=arguments.recycles, leak=leak):
            print(run, flush=True)
            measured[-1].append(run)
    command = f"python -m benchmarks.recycling --runs {arguments.runs} --recycles {arguments.recycles} --write"
    text = report(measured[0], measured[1], command)
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
