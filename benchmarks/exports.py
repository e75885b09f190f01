"""How long exports and the report of a large batch take, and whether their memory stays flat.

    python -m benchmarks.exports [--pairs 1000000] [--database sqlite] [--database postgresql] [--write]

The real commands as fresh processes, on ledgers that are filled by SQL: verdicts with random-looking scores and times,
one pair in fifty failed, three extra columns, no pictures. `--write` puts the table into docs/report.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from audit.settings import Settings
from benchmarks.submit_rate import fresh_ledger, machine
from db.engine import open_database
from tests.support.ledger_rows import add_batch
from tests.support.postgres_server import PostgresServer, find_binaries
from tests.support.processes import environment

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "report.md"
SMALL_PAIRS, EXPORTED_UP_TO = 20_000, 200_000
"""Exports are measured up to the second: their time grows with the pairs, and the report's is the question beyond."""
LAUNCH = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stderr=subprocess.DEVNULL)
seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""
"""A small process between: what starts another counts into its peak memory, and this benchmark is large itself."""
COMMANDS = {
    "export, CSV": ["export", "1", "--format", "csv"],
    "export, JSON Lines": ["export", "1", "--format", "jsonl"],
    "export, Parquet": ["export", "1", "--format", "parquet"],
    "report": ["report", "1"],
}
PAIRS = """
INSERT INTO pairs (batch, "row", id, conflict, image, caption, extra)
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {pairs})
SELECT 1, i, 'pair-' || i, 0, 'images/' || (i % 1000) || '/' || i || '.jpg',
       'a photograph of a red square above a blue circle, number ' || i || ' of its series',
       '{{"source": "crawl", "shop": "' || (i % 77) || '", "price": "' || (i % 997) || '"}}' FROM n
"""
OUTCOMES = """
INSERT INTO outcomes (batch, "row", label, p_yes, p_no, p_maybe, failure_code, failure_detail, flagged, flags,
                      image_sha256, cached, model, model_revision, engine, precision, device, worker, attempt,
                      decode_ms, model_ms, judged_at)
SELECT 1, "row", CASE WHEN fails THEN NULL ELSE label END,
       CASE WHEN fails THEN NULL WHEN label = 'Yes' THEN p ELSE (1 - p) / 2 END,
       CASE WHEN fails THEN NULL WHEN label = 'No' THEN p ELSE (1 - p) / 2 END,
       CASE WHEN fails THEN NULL WHEN label = 'Maybe' THEN p ELSE (1 - p) / 2 END,
       CASE WHEN fails THEN 'file_missing' END, CASE WHEN fails THEN 'there is no file' END,
       NOT fails AND label = 'No', CASE WHEN NOT fails AND "row" % 9 = 0 THEN 'animated' ELSE '' END,
       '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef', {false}, 'demo', 'r1', 'stub', 'fp32', 'cpu',
       'worker-1', 1, ("row" * 7919 % 90000) / 1000.0, ("row" * 104729 % 800000) / 1000.0, 1700000000 + "row" / 100.0
FROM (SELECT "row", "row" % 50 = 0 AS fails, 0.34 + ("row" * 31 % 6600) / 10000.0 AS p,
             CASE "row" % 7 WHEN 1 THEN 'No' WHEN 2 THEN 'Maybe' ELSE 'Yes' END AS label FROM pairs) AS judged
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One command: seconds from its start to its exit, those on a CPU, its peak memory, and the file's size."""

    database: str
    command: str
    pairs: int
    seconds: float
    cpu_s: float
    peak_mb: float
    file_mb: float


def fill(url: str, pairs: int) -> None:
    """A done batch with the number 1; chunks of 4,096 pairs with counts as a worker would leave them."""
    database = open_database(Settings.model_validate({"database_url": url}).ledger_url)
    false = "0" if database.is_sqlite else "false"
    add_batch(database, id=1, name="a large batch", image_root="/nowhere")
    chunks = (
        "INSERT INTO chunks (batch, number, first_row, last_row, pairs, state, claimed_at, done_at, yes, no, maybe,"
        ' failed, flagged) SELECT 1, "row" / 4096, min("row"), max("row"), count(*), \'done\', 1700000000, 1700000100,'
        " sum(CASE WHEN label = 'Yes' THEN 1 ELSE 0 END), sum(CASE WHEN label = 'No' THEN 1 ELSE 0 END),"
        " sum(CASE WHEN label = 'Maybe' THEN 1 ELSE 0 END), sum(CASE WHEN label IS NULL THEN 1 ELSE 0 END),"
        ' sum(CASE WHEN flagged THEN 1 ELSE 0 END) FROM outcomes GROUP BY "row" / 4096'
    )
    for statement in map(text, (PAIRS.format(pairs=pairs), OUTCOMES.format(false=false), chunks)):
        database.transact(lambda connection, sql=statement: connection.execute(sql))  # type: ignore[misc]  # a default binds it
    if not database.is_sqlite:  # autovacuum does it a minute later
        database.transact(lambda connection: connection.execute(text("ANALYZE")))
    database.close()


def run_once(kind: str, name: str, pairs: int, settings: Settings) -> Run:
    """Run one process to its end."""
    target = settings.home / "out"
    command = [sys.executable, "-c", LAUNCH, sys.executable, "-m", "ops.cli", *COMMANDS[name], "-o", str(target)]
    told = subprocess.run(command, env=environment(settings), cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    seconds, cpu_s, peak_mb = json.loads(told.stdout)
    file_mb = target.stat().st_size / 1e6
    return Run(
        database=kind,
        command=name,
        pairs=pairs,
        seconds=seconds,
        cpu_s=cpu_s,
        peak_mb=peak_mb,
        file_mb=file_mb,
    )


def measure(kinds: list[str], sizes: list[int]) -> Iterator[Run]:
    """Every command at every size."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ca-bench-")))
        server = PostgresServer(find_binaries() or Path(), durable=True) if "postgresql" in kinds else None
        if server is not None:
            stack.callback(server.close)
            server.start()
        for kind in kinds:
            for pairs in sizes:
                with fresh_ledger(folder, server if kind == "postgresql" else None) as url:
                    fill(url, pairs)
                    settings = Settings.model_validate({"home": folder, "database_url": url})
                    for name in COMMANDS if pairs <= EXPORTED_UP_TO else ["report"]:
                        yield run_once(kind, name, pairs, settings)


def table(runs: list[Run], command: str) -> str:
    """The results as Markdown."""
    lines = [
        f"Command: `{command}`  ",
        f"Machine: {machine()}",
        "",
        "| ledger | command | pairs | seconds | of them CPU | peak memory | file |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        times = f"{run.seconds:.1f} | {run.cpu_s:.1f}"
        measured = f"{run.pairs:,} | {times} | {run.peak_mb:.0f} MB | {run.file_mb:.1f} MB"
        lines.append(f"| {run.database} | {run.command} | {measured} |")
    return "\n".join(lines)


def write(path: Path, text_between: str) -> None:
    """Put the table between the two marks of the page."""
    before, _, rest = path.read_text(encoding="utf-8").partition("<!-- figures -->\n")
    _, _, after = rest.partition("<!-- /figures -->")
    path.write_text(f"{before}<!-- figures -->\n{text_between}\n<!-- /figures -->{after}", encoding="utf-8")


def main() -> None:
    """Measure, print, and with --write keep the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--database", action="append", choices=["postgresql", "sqlite"], help="default: both")
    parser.add_argument("--write", action="store_true", help=f"write {GUIDE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    runs = []
    sizes = sorted({SMALL_PAIRS, min(EXPORTED_UP_TO, arguments.pairs), arguments.pairs})
    for run in measure(arguments.database or ["sqlite", "postgresql"], sizes):
        print(run, flush=True)
        runs.append(run)
    made = table(runs, f"python -m benchmarks.exports --pairs {arguments.pairs} --write")
    print(made)
    if arguments.write:
        write(GUIDE, made)


if __name__ == "__main__":
    main()
