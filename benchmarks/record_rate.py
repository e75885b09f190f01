"""How fast outcomes are written, by each way there is, one by one and by the chunk.

    python -m benchmarks.record_rate [--rounds 40] [--database sqlite] [--database postgresql] [--write]

Durable settings: SQLite with synchronous FULL, PostgreSQL with fsync on. One transaction with its COMMIT is one
measurement; the ways take turns, so that whatever else the machine does hits all of them alike.
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from audit.message import ChunkMessage
from audit.pair import ChunkNumber, Row
from audit.settings import Settings
from audit.verdict import Failure, Outcome, Scores, Verdict
from benchmarks.record_ways import OWN, SAME, WAYS, Way
from benchmarks.record_ways import Row as Values
from benchmarks.submit_rate import RESULTS as SUBMIT_RESULTS
from benchmarks.submit_rate import fresh_ledger, machine
from db import record as recording
from db.claim import claim
from db.engine import Database, open_database
from db.lease import Claim
from db.outcome_rows import insert_outcomes
from tests.support.claims import batch_of, claimant
from tests.support.postgres_server import PostgresServer, find_binaries

SIZES = (1, 32, 256)
CHUNK = 256
CHOSEN = "db/record.py"
RESULTS = SUBMIT_RESULTS.with_name("record_rate.md")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Milliseconds a transaction: the median, and what nine of ten stay below."""

    median_ms: float
    slow_ms: float

    @classmethod
    def of(cls, seconds: list[float]) -> "Timing":
        """Of measurements in any order."""
        ordered = sorted(seconds)
        return cls(median_ms=statistics.median(ordered) * 1000, slow_ms=ordered[int(len(ordered) * 0.9)] * 1000)


def outcome(row: int) -> Outcome:
    """A verdict with all that a real one has; every hundredth pair fails."""
    stages = {"decode": 3.25, "model": 20.5}
    if row % 100 == 99:
        return Outcome(row=Row(row), result=Failure(code="image_truncated", detail="ends early"), stage_ms=stages)
    scores = Scores(p_yes=0.7, p_no=0.2, p_maybe=0.1)
    key = hashlib.sha256(str(row).encode()).hexdigest()  # in no order, as real ones
    return Outcome(
        row=Row(row), result=Verdict(scores=scores), content_key=key, image_sha256=key[::-1], stage_ms=stages
    )


def values(held: Claim, first: int, size: int) -> list[Values]:
    """Rows of `outcomes` as db/record.py makes them, of pairs that have none yet; cached: no way remembers them."""
    shared = recording.shared_values(held)
    found = [replace(outcome(row), cached=True) for row in range(first, first + size)]
    return [{**shared, **recording.own_values(held, one)} for one in found]


def chosen(connection: Connection, rows: Sequence[Values]) -> None:
    """What db/record.py does."""
    own = [{name: row[name] for name in OWN} for row in rows]
    insert_outcomes(connection, {name: rows[0][name] for name in SAME}, own)


def time_ways(database: Database, held: Claim, rounds: int) -> dict[tuple[str, int], Timing]:
    """Each way and size, in turn, on rows that are new."""
    ways = {**WAYS[database.engine.dialect.name], CHOSEN: chosen}
    seconds: dict[tuple[str, int], list[float]] = {(way, size): [] for way in ways for size in SIZES}
    first = 1_000_000
    for turn in range(rounds + 2):
        for size in SIZES:
            for name, way in ways.items():
                rows = values(held, first, size)
                first += size
                began = time.perf_counter()
                database.transact(partial(_write, way=way, rows=rows))
                if turn >= 2:  # the first rounds fill caches
                    seconds[name, size].append(time.perf_counter() - began)
    return {key: Timing.of(took) for key, took in seconds.items()}


def _write(connection: Connection, *, way: Way, rows: list[Values]) -> None:
    way(connection, rows)


@contextmanager
def opened(kind: str, server: PostgresServer | None, folder: Path) -> Iterator[Database]:
    """A fresh ledger."""
    with fresh_ledger(folder, server if kind == "postgresql" else None) as url:
        database = open_database(Settings.model_validate({"database_url": url}).ledger_url)
        yield database
        database.close()


def measure(kinds: list[str], rounds: int) -> dict[str, dict[tuple[str, int], Timing]]:
    """The ways, for each kind of ledger."""
    found = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ca-bench-")))
        server = PostgresServer(find_binaries() or Path(), durable=True) if "postgresql" in kinds else None
        if server is not None:
            stack.callback(server.close)
            server.start()
        for kind in kinds:
            with opened(kind, server, folder) as database:
                batch = batch_of(database, 1, chunk_pairs=1)
                held = claim(database, ChunkMessage(batch=batch, chunk=ChunkNumber(0)), claimant())
                assert isinstance(held, Claim)
                found[kind] = time_ways(database, held, rounds)
    return found


def report(found: dict[str, dict[tuple[str, int], Timing]], rounds: int) -> str:
    """The results as Markdown."""
    lines = [
        "# How fast outcomes are written",
        "",
        "One transaction with its COMMIT is one measurement, with durable settings (SQLite with `synchronous=FULL`,",
        "PostgreSQL with `fsync` on); the ways took turns. Every way leaves out rows that are there already.",
        "Milliseconds are the median, in parentheses what nine of ten stay below; the ratio compares with what",
        f"`{CHOSEN}` does: on PostgreSQL one statement with one JSON text, the fastest for chunks and no slower",
        "for one outcome; on SQLite the driver's executemany.",
        "",
        f"Command: `python -m benchmarks.record_rate --rounds {rounds} --write`",
        f"Machine: {machine()}",
    ]
    for kind, ways in found.items():
        lines += ["", f"## {kind}", "", "| way | " + " | ".join(f"{size} outcomes" for size in SIZES) + " |"]
        lines.append("|---|" + "---:|" * len(SIZES))
        for name in dict.fromkeys(way for way, _ in ways):
            cells = [_cell(ways[name, size], ways[CHOSEN, size]) for size in SIZES]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(timing: Timing, chosen: Timing) -> str:
    return f"{timing.median_ms:.2f} ms ({timing.slow_ms:.1f}), {timing.median_ms / chosen.median_ms:.2f}x"


def main() -> None:
    """Measure, print, and with --write keep the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--database", action="append", choices=sorted(WAYS), help="default: both")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} under docs/results")
    arguments = parser.parse_args()
    text = report(measure(arguments.database or ["sqlite", "postgresql"], arguments.rounds), arguments.rounds)
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
