"""How fast a manifest becomes a batch, and in how much memory: the real `submit`, a fresh process, start to exit.

    python -m benchmarks.submit_rate [--rows 1000000] [--database sqlite] [--database postgresql] [--write]

Manifests are generated in a temporary folder. SQLite runs with synchronous FULL, PostgreSQL with fsync on, Redis is a
real one. The ledger has its schema before the clock starts, and each run finds it empty.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

from audit.settings import Settings
from db.engine import open_database
from db.schema import ensure_schema
from tests.support.postgres_server import PostgresServer, find_binaries
from tests.support.processes import environment
from tests.support.redis_server import RedisServer, find_redis

ROOT = Path(__file__).resolve().parent.parent
SMALL_ROWS = 10_000
GOALS = {"sqlite": 20_000, "postgresql": 10_000}
GROWTH_GOAL_MB = 50
RESULTS = ROOT / "docs" / "results" / "submit_rate.md"
SUBMIT = "import sys; from producer import submit; print(submit(sys.argv[1]).pairs)"
SPACE = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One submission: seconds from a process's start to its exit, how many of them on a CPU, and its peak memory."""

    database: str
    ids: str
    rows: int
    seconds: float
    cpu_s: float
    peak_mb: float

    @property
    def rate(self) -> float:
        """Pairs a second."""
        return self.rows / self.seconds


def write_manifest(path: Path, rows: int, *, random_ids: bool) -> Path:
    """A CSV of about 150 bytes a row."""
    with path.open("w", encoding="utf-8") as file:
        file.write("id,image,caption,source\n")
        for n in range(rows):
            name = uuid5(SPACE, f"{n}") if random_ids else f"pair-{n:09d}"
            caption = f"a photograph of a red square above a blue circle, number {n} of its series"
            file.write(f'{name},images/{n % 1000:04d}/{n:09d}.jpg,"{caption}",crawl\n')
    return path


@contextmanager
def fresh_ledger(folder: Path, server: PostgresServer | None) -> Iterator[str]:
    """DATABASE_URL of an empty ledger that has its schema."""
    name = f"bench_{time.monotonic_ns()}"
    if server is None:
        url = f"sqlite:///{folder / name}.db"
    else:
        server.create(name)
        url = server.url(name)
    database = open_database(Settings.model_validate({"database_url": url}).ledger_url)
    ensure_schema(database)
    database.close()
    yield url
    if server is None:
        for path in folder.glob(f"{name}.db*"):
            path.unlink()
    else:
        server.drop(name)


def submit_once(kind: str, ids: str, manifest: Path, rows: int, settings: Settings) -> Run:
    """Run one process to its end."""
    command = [sys.executable, "-c", SUBMIT, str(manifest)]
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment(settings), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pairs = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    cpu_s = usage.ru_utime + usage.ru_stime
    assert (status, int(pairs)) == (0, rows), (status, pairs)
    return Run(database=kind, ids=ids, rows=rows, seconds=seconds, cpu_s=cpu_s, peak_mb=usage.ru_maxrss / 1024)


def measure(kinds: list[str], rows: int) -> Iterator[Run]:
    """Every run, the small file first."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ca-bench-")))
        redis = RedisServer(str(find_redis()))
        stack.callback(redis.close)
        redis.start()
        server = PostgresServer(find_binaries() or Path(), durable=True) if "postgresql" in kinds else None
        if server is not None:
            stack.callback(server.close)
            server.start()
        model = folder / "model"
        model.mkdir()
        (model / "configuration.json").write_text("{}")
        for ids in ("in order", "random"):
            for size in (SMALL_ROWS, rows):
                manifest = write_manifest(folder / "pairs.csv", size, random_ids=ids == "random")
                for kind in kinds:
                    with fresh_ledger(folder, server if kind == "postgresql" else None) as url:
                        fields = {"home": folder, "database_url": url, "redis_url": redis.url, "model": str(model)}
                        yield submit_once(kind, ids, manifest, size, Settings.model_validate(fields))
        shutil.rmtree(model)


def report(runs: list[Run], command: str) -> str:
    """The results as Markdown."""
    lines = [
        "# How fast a manifest becomes a batch",
        "",
        "The real `submit` of a CSV as a fresh process, from its start to its exit, with SQLite at `synchronous=FULL`,",
        "PostgreSQL with `fsync` on, and a real Redis. Memory is the process's peak resident size.",
        f"Goals for 1,000,000 rows: {GOALS['sqlite']:,} pairs/s on SQLite, {GOALS['postgresql']:,} on PostgreSQL, and",
        f"less than {GROWTH_GOAL_MB} MB more memory than for {SMALL_ROWS:,} rows.",
        "",
        f"Command: `{command}`",
        f"Machine: {machine()}",
        "",
        "| ledger | ids | rows | seconds | of them CPU | pairs/s | peak memory |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        times = f"{run.seconds:.1f} | {run.cpu_s:.1f} | {run.rate:,.0f}"
        lines.append(f"| {run.database} | {run.ids} | {run.rows:,} | {times} | {run.peak_mb:.0f} MB |")
    lines += ["", "Memory grew from the smaller file to the larger one by:", ""]
    for run in runs:
        small = next(r for r in runs if (r.database, r.ids, r.rows) == (run.database, run.ids, SMALL_ROWS))
        if run.rows > SMALL_ROWS:
            lines.append(f"- {run.database}, ids {run.ids}: {run.peak_mb - small.peak_mb:.1f} MB")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """What the figures depend on, and nothing that names the machine."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cores, load = os.cpu_count(), os.getloadavg()[0]
    return (
        f"{cores} cores ({found.group(1) if found else platform.machine()}), shared: load {load:.1f} at the end;"
        f" Python {platform.python_version()}"
    )


def main() -> None:
    """Measure, print, and with --write keep the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--database", action="append", choices=sorted(GOALS), help="default: both")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    arguments = parser.parse_args()
    runs = []
    for run in measure(arguments.database or ["sqlite", "postgresql"], arguments.rows):
        print(
            f"{run.database:<10} ids {run.ids:<8} {run.rows:>9,} rows {run.seconds:6.1f} s {run.rate:>8,.0f} pairs/s",
            end="",
        )
        print(f" peak {run.peak_mb:.1f} MB", flush=True)
        runs.append(run)
    text = report(runs, f"python -m benchmarks.submit_rate --rows {arguments.rows} --write")
    print(text)
    if arguments.write:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
