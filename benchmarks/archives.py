"""How long a month's archive takes: a tenth of a large ledger and all of it, and the forecast of the same ledger.

    python -m benchmarks.archives [--pairs 1000000] [--database sqlite] [--database postgresql] [--write]

The real commands as fresh processes, on ledgers that benchmarks.exports fills; the outcomes are then dated over ten
months, or all into one. `--write` puts the table into docs/archive.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import text

from audit.settings import Settings
from benchmarks.exports import LAUNCH, Run, fill, table, write
from benchmarks.submit_rate import fresh_ledger
from db.engine import open_database
from ops.archiving import month_of
from tests.support.postgres_server import PostgresServer, find_binaries
from tests.support.processes import environment

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "archive.md"
MONTH_S, MONTHS = 30.4 * 86_400, 10
MONTH = month_of(time.time() - 6 * MONTH_S)
"""The one that is archived; the others lie around it."""
COMMANDS = {
    "archive, Parquet": ["archive", "--month", MONTH.name, "--again"],
    "archive, JSON Lines": ["archive", "--month", MONTH.name, "--again", "--format", "jsonl"],
    "checking it again": ["archive", "--month", MONTH.name],
    "forecast": ["forecast", "--rate", "30"],
}


def spread(url: str, pairs: int, *, months: int) -> None:
    """Date outcomes and chunks evenly over so many months, about half of them before MONTH; or over MONTH alone."""
    database = open_database(Settings.model_validate({"database_url": url}).ledger_url)
    begins = MONTH.since - months // 2 * MONTH_S
    each = months * MONTH_S * 0.9 / pairs
    statements = (
        f"UPDATE outcomes SET judged_at = {begins} + row * {each}",
        f"UPDATE chunks SET claimed_at = {begins} + first_row * {each}, done_at = {begins} + last_row * {each}",
        f"UPDATE batches SET created_at = {begins}",
    )
    for statement in statements:
        database.transact(lambda connection, sql=statement: connection.execute(text(sql)))  # type: ignore[misc]  # a default binds it
    if not database.is_sqlite:  # autovacuum does it a minute later
        database.transact(lambda connection: connection.execute(text("ANALYZE")))
    database.close()


def run_once(kind: str, name: str, part: str, pairs: int, settings: Settings) -> Run:
    """Run one process to its end; `part` says how much of the ledger lies in the month."""
    command = [sys.executable, "-c", LAUNCH, sys.executable, "-m", "ops.cli", *COMMANDS[name], "--json"]
    done = subprocess.run(command, env=environment(settings), cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    seconds, cpu_s, peak_mb = json.loads(done.stdout.splitlines()[-1])
    size = sum(path.stat().st_size for path in settings.home.rglob("outcomes.*")) / 1e6
    what = f"{name}, {part}"
    return Run(database=kind, command=what, pairs=pairs, seconds=seconds, cpu_s=cpu_s, peak_mb=peak_mb, file_mb=size)


def measure(kinds: list[str], pairs: int) -> Iterator[Run]:
    """A tenth of the ledger, then all of it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ca-bench-")))
        server = PostgresServer(find_binaries() or Path(), durable=True) if "postgresql" in kinds else None
        if server is not None:
            stack.callback(server.close)
            server.start()
        for kind in kinds:
            with fresh_ledger(folder, server if kind == "postgresql" else None) as url:
                fill(url, pairs)
                for months in (MONTHS, 1):
                    spread(url, pairs, months=months)
                    settings = Settings.model_validate({"home": folder / f"{kind}-{months}", "database_url": url})
                    part = "all of it" if months == 1 else "a tenth of it"
                    for name in COMMANDS:
                        yield run_once(kind, name, part, pairs, settings)


def main() -> None:
    """Measure, print, and with --write keep the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--database", action="append", choices=["postgresql", "sqlite"], help="default: both")
    parser.add_argument("--write", action="store_true", help=f"write {GUIDE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    runs = []
    for run in measure(arguments.database or ["sqlite", "postgresql"], arguments.pairs):
        print(run, flush=True)
        runs.append(run)
    made = table(runs, f"python -m benchmarks.archives --pairs {arguments.pairs} --write")
    print(made)
    if arguments.write:
        write(GUIDE, made)


if __name__ == "__main__":
    main()
