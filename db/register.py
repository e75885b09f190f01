"""Registering a batch slice by slice: nothing is claimable before the last slice, and nothing is written twice.

Slices are committed in row order, each with whole chunks, so the highest row of the chunks says where to go on: after a
crash, and when two processes submit the same file at the same time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from audit.errors import Transient, UsageError
from audit.message import WIRE_VERSION, Lane
from audit.pair import BatchId
from audit.verdict import Failure
from db.codec import escape
from db.engine import Database, db_now
from db.register_pairs import Entry, Inserted, insert_pairs, pair_rows
from db.tables import BatchState, ChunkState, batches, chunks, outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBatch:
    """What a batch is; `key` is the hash over everything that makes two submissions the same one."""

    key: str
    name: str
    tenant: str
    lane: Lane
    priority: int
    model: str
    policy: str
    image_root: str
    traceparent: str | None = None  # of the submission, in W3C trace context


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A batch as it was found or made; rows before `next_row` are committed."""

    batch: BatchId
    state: BatchState
    next_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a registered batch holds; `failed` are its pairs that already ended as failures."""

    pairs: int
    chunks: int
    failed: int


class BatchGone(Transient):
    """Somebody removed or cancelled the batch while it was being registered."""


def find_or_create(database: Database, new: NewBatch) -> Registration:
    """The batch with this key, made in state `registering` if there is none. Raises LedgerUnavailable."""

    def work(connection: Connection) -> Registration:
        values = {
            "key": new.key,
            "name": escape(new.name),
            "tenant": new.tenant,
            "lane": new.lane.value,
            "priority": new.priority,
            "model": new.model,
            "policy": new.policy,
            "image_root": new.image_root,
            "wire_version": WIRE_VERSION,
            "state": BatchState.REGISTERING,
            "created_at": db_now(),
            "traceparent": new.traceparent,
        }
        known = select(batches.c.id, batches.c.state).where(batches.c.key == new.key)
        found = connection.execute(known).first()
        if found is None:  # an insert that meets a conflict would use up a number
            connection.execute(_insert_new(connection, values))
            found = connection.execute(known).one()
        batch = BatchId(found.id)
        return Registration(batch=batch, state=BatchState(found.state), next_row=_next_row(connection, batch))

    return database.transact(work)


def add_slice(database: Database, batch: BatchId, entries: Sequence[Entry], *, chunk_pairs: int) -> int:
    """Commit consecutive rows and the chunks that cover them; returns the row to go on with.

    The slice starts at a multiple of `chunk_pairs` and ends at one, or at the manifest's end. What is registered
    already is left alone. Raises BatchGone and LedgerUnavailable.
    """
    rows = pair_rows(batch, entries)  # before the transaction: while it lasts, SQLite has no other writer

    def work(connection: Connection) -> int:
        if _locked_state(connection, batch) is BatchState.REGISTERING:
            done = _next_row(connection, batch) - entries[0].pair.row
            if done < 0:
                raise RuntimeError(f"rows before {entries[0].pair.row} of batch {batch} were never registered")
            if done < len(entries):
                inserted = insert_pairs(connection, batch, entries[done:], rows[done:])
                _insert_failures(connection, batch, inserted.failures)
                _insert_chunks(connection, batch, entries[done:], inserted, chunk_pairs)
        return _next_row(connection, batch)

    return database.transact(work)


def open_batch(database: Database, batch: BatchId) -> bool:
    """Make the batch claimable; False when somebody else had done so. Raises BatchGone and LedgerUnavailable."""

    def work(connection: Connection) -> bool:
        if _locked_state(connection, batch) is not BatchState.REGISTERING:
            return False
        opened = {"state": BatchState.OPEN, "opened_at": db_now()}
        connection.execute(update(batches).where(batches.c.id == batch).values(**opened))
        return True

    return database.transact(work)


def discard(database: Database, batch: BatchId) -> None:
    """Remove a batch that was never opened, with all its rows; an open one stays as it is."""
    unopened = delete(batches).where(batches.c.id == batch, batches.c.state == BatchState.REGISTERING)
    database.transact(lambda connection: connection.execute(unopened))


def totals(database: Database, batch: BatchId) -> Totals:
    """How many pairs and chunks are registered."""
    sums = (func.coalesce(func.sum(chunks.c.pairs), 0), func.count(), func.coalesce(func.sum(chunks.c.failed), 0))
    with database.reading() as connection:
        pairs, number, failed = connection.execute(select(*sums).where(chunks.c.batch == batch)).one()
    return Totals(pairs=int(pairs), chunks=int(number), failed=int(failed))


def _insert_new(connection: Connection, values: Mapping[str, Any]) -> Any:
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(batches).values(**values).on_conflict_do_nothing(index_elements=["key"])


def _next_row(connection: Connection, batch: BatchId) -> int:
    # The last chunk by its number: an index look-up, where max(last_row) would read every chunk of the batch.
    last = select(chunks.c.last_row).where(chunks.c.batch == batch).order_by(chunks.c.number.desc()).limit(1)
    found = connection.scalar(last)
    return 0 if found is None else int(found) + 1


def _locked_state(connection: Connection, batch: BatchId) -> BatchState:
    # FOR NO KEY UPDATE: a second submitter waits for this transaction, the rows' foreign keys do not.
    locked = select(batches.c.state).where(batches.c.id == batch).with_for_update(key_share=True)
    state = connection.scalar(locked)
    if state is None:
        raise BatchGone("batch_gone", f"batch {batch} was removed while it was being submitted: submit it again")
    if state == BatchState.CANCELLED:
        raise UsageError("batch_cancelled", f"batch {batch} was cancelled while it was being submitted")
    return BatchState(state)


def _insert_failures(connection: Connection, batch: BatchId, failures: Mapping[int, Failure]) -> None:
    if not failures:
        return
    nobody = dict.fromkeys(("model", "model_revision", "precision", "device", "flags"), "")
    fixed = {**nobody, "engine": "none", "worker": "producer", "attempt": 0, "flagged": False, "cached": False}
    rows = [
        {"batch": batch, "row": row, "failure_code": failure.code, "failure_detail": escape(failure.detail), **fixed}
        for row, failure in failures.items()
    ]
    connection.execute(insert(outcomes).values(judged_at=db_now()), rows)


def _insert_chunks(
    connection: Connection, batch: BatchId, entries: Sequence[Entry], inserted: Inserted, chunk_pairs: int
) -> None:
    pending: list[dict[str, int]] = []
    finished: list[dict[str, int]] = []  # nothing in them can be judged
    for start in range(0, len(entries), chunk_pairs):
        covered = [entry.pair.row for entry in entries[start : start + chunk_pairs]]
        held = len(covered) - sum(row in inserted.repeated for row in covered)
        failed = sum(row in inserted.failures for row in covered)
        chunk = {"batch": batch, "number": covered[0] // chunk_pairs, "first_row": covered[0], "last_row": covered[-1]}
        (finished if held == failed else pending).append({**chunk, "pairs": held, "failed": failed})
    if pending:
        connection.execute(insert(chunks).values(state=ChunkState.PENDING), pending)
    if finished:
        connection.execute(insert(chunks).values(state=ChunkState.DONE, done_at=db_now()), finished)
