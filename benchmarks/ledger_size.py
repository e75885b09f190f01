"""How many bytes a pair takes in the ledger: registered, then judged, on each database.

    python -m benchmarks.ledger_size [--pairs 100000] [--write]

Manifest rows are about 150 bytes with one extra column; every judged pair leaves an outcome, and a judgement in the
cache.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import select, text

from audit.message import ChunkMessage
from audit.pair import BatchId, ChunkNumber
from audit.settings import Settings
from benchmarks.record_rate import outcome
from benchmarks.submit_rate import RESULTS as SUBMIT_RESULTS
from benchmarks.submit_rate import fresh_ledger, write_manifest
from db.claim import claim
from db.engine import Database, open_database
from db.lease import Claim
from db.record import record
from db.tables import chunks
from producer import submit
from tests.support.claims import claimant
from tests.support.postgres_server import PostgresServer, find_binaries

TABLES = ("pairs", "outcomes", "judgements", "chunks")
RESULTS = SUBMIT_RESULTS.with_name("ledger_size.md")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Bytes of the whole ledger after each step, and on PostgreSQL those of each table with its indexes."""

    registered: int
    judged: int
    tables: Mapping[str, int]


def size_of(database: Database) -> int:
    """Bytes on disk."""
    if not database.is_sqlite:
        return sum(_tables(database).values())
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return os.path.getsize(str(database.engine.url.database))


def _tables(database: Database) -> dict[str, int]:
    if database.is_sqlite:
        return {}
    with database.reading() as connection:
        sizes = (connection.scalar(text("SELECT pg_total_relation_size(:name)"), {"name": name}) for name in TABLES)
        return {name: int(size or 0) for name, size in zip(TABLES, sizes, strict=True)}


def judge_all(database: Database, batch: BatchId, model: str) -> None:
    """Give every pair an outcome, chunk by chunk, as a worker does."""
    by = claimant()
    by = replace(by, provenance=replace(by.provenance, model=model, model_revision="0" * 40))
    with database.reading() as connection:
        numbers = list(connection.scalars(select(chunks.c.number).where(chunks.c.batch == batch)))
    for number in numbers:
        held = claim(database, ChunkMessage(batch=batch, chunk=ChunkNumber(number)), by)
        assert isinstance(held, Claim)
        record(database, held, [outcome(pair.row) for pair in held.pairs])


def measure(pairs: int) -> dict[str, Size]:
    """Both databases, each with a fresh ledger."""
    found: dict[str, Size] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ca-bench-")))
        server = PostgresServer(find_binaries() or Path())
        stack.callback(server.close)
        server.start()
        model = folder / "model"
        model.mkdir()
        (model / "configuration.json").write_text("{}")
        manifest = write_manifest(folder / "pairs.csv", pairs, random_ids=False)
        for kind in ("sqlite", "postgresql"):
            with fresh_ledger(folder, server if kind == "postgresql" else None) as url:
                fields = {"home": folder, "database_url": url, "redis_url": "redis://127.0.0.1:1/0"}
                settings = Settings.model_validate({**fields, "model": str(model)})
                empty_database = open_database(settings.ledger_url)
                empty = size_of(empty_database)
                with submit(manifest, settings=settings) as handle:
                    registered = size_of(handle.database) - empty
                    judge_all(handle.database, handle.batch, settings.model_name)
                    judged = size_of(handle.database) - empty
                    found[kind] = Size(registered=registered, judged=judged, tables=_tables(handle.database))
                empty_database.close()
    return found


def report(found: Mapping[str, Size], pairs: int) -> str:
    """The results as Markdown."""
    lines = [
        "# How many bytes a pair takes",
        "",
        f"A batch of {pairs:,} pairs, captions of about 70 characters, ids in order, one extra column; then an outcome",
        "for each (99 % verdicts), which leaves a judgement in the cache, too. Chunks of 256 pairs; indexes included.",
        "",
        f"Command: `python -m benchmarks.ledger_size --pairs {pairs} --write`",
        "",
        "| ledger | registered | judged | 10 million pairs, judged |",
        "|---|---:|---:|---:|",
    ]
    for kind, size in found.items():
        each = size.judged / pairs
        lines.append(f"| {kind} | {size.registered / pairs:.0f} bytes | {each:.0f} bytes | {each / 100:.1f} GB |")
    for kind, size in found.items():
        if size.tables:
            shares = ", ".join(f"{name} {amount / pairs:.0f}" for name, amount in size.tables.items())
            lines += ["", f"On {kind}, bytes a pair by table, with its indexes: {shares}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and with --write keep the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} under docs/results")
    arguments = parser.parse_args()
    told = report(measure(arguments.pairs), arguments.pairs)
    print(told)
    if arguments.write:
        RESULTS.write_text(told, encoding="utf-8")


if __name__ == "__main__":
    main()
