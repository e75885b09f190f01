"""Ledgers with a past: batches that the real code registered, claimed and recorded, and whose times were moved."""

import time
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

from sqlalchemy import select, text

from audit.message import Lane
from audit.pair import BatchId, Pair
from audit.verdict import Outcome
from db.engine import Database
from db.lease import Claimant
from db.record import Recorded, record
from db.register import add_slice, find_or_create, open_batch
from db.register_pairs import Entry
from db.tables import chunks
from tests.support.claims import claimant, take, yes
from tests.support.registering import NEW, entry

DAY_S = 86_400


def midnight(*, days_ago: int = 0) -> float:
    """The beginning of today (UTC), or of a day before it."""
    return (time.time() // DAY_S - days_ago) * DAY_S


def submitted(
    database: Database, entries: int | list[Entry], *, at: float, lane: Lane = Lane.BULK, chunk_pairs: int = 4
) -> BatchId:
    """An open batch, submitted at a moment of the past."""
    given = [entry(row) for row in range(entries)] if isinstance(entries, int) else entries
    batch = find_or_create(database, replace(NEW, key=uuid4().hex, lane=lane)).batch
    add_slice(database, batch, given, chunk_pairs=chunk_pairs)
    assert open_batch(database, batch)
    move(database, "batches SET created_at = :at, opened_at = :at WHERE id = :batch", batch=batch, at=at)
    move(database, "outcomes SET judged_at = :at WHERE batch = :batch", batch=batch, at=at)
    move(database, "chunks SET done_at = :at WHERE batch = :batch AND done_at IS NOT NULL", batch=batch, at=at)
    return batch


def judged(
    database: Database,
    batch: BatchId,
    *,
    at: float,
    took_s: float = 2.0,
    result: Callable[[Pair], Outcome] = yes,
    by: Claimant | None = None,
) -> None:
    """Every chunk that waits was claimed `took_s` before `at`, and recorded then."""
    with database.reading() as connection:
        waiting = select(chunks.c.number).where(chunks.c.batch == batch, chunks.c.state == "pending")
        numbers = list(connection.scalars(waiting.order_by(chunks.c.number)))
    for number in numbers:
        held = take(database, batch, number, by or claimant())
        assert record(database, held, [result(pair) for pair in held.pairs]) is Recorded.DONE
        where = {"batch": batch, "chunk": number, "at": at, "since": at - took_s}
        this = "batch = :batch AND number = :chunk"
        move(database, f"chunks SET claimed_at = :since, done_at = :at WHERE {this}", **where)
        rows = {"first": min(pair.row for pair in held.pairs), "last": max(pair.row for pair in held.pairs)}
        fresh = "batch = :batch AND row BETWEEN :first AND :last AND judged_at > :since"
        move(database, f"outcomes SET judged_at = :at WHERE {fresh}", **where, **rows)


def move(database: Database, sql: str, **values: float) -> None:
    """A plain UPDATE of times."""
    database.transact(lambda connection: connection.execute(text(f"UPDATE {sql}"), values))
