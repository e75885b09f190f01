"""Retrying failures: each stays the pair's outcome until a new one replaces it, in the transaction that records it."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, insert, select, update

from audit.errors import UsageError
from audit.pair import BatchId, Row
from db.engine import Database, db_now
from db.tables import BatchState, ChunkState, batches, chunks, failure_history, outcomes, retries

LEFT_AT_ONCE = 1_000
"""Outstanding retries that one look for forgotten ones sees, the oldest rows first; the next look sees the next."""
_SOME = select(retries.c.batch, retries.c.chunk).order_by(retries.c.batch, retries.c.row).limit(LEFT_AT_ONCE).subquery()
_FORGOTTEN = (
    select(chunks.c.batch, chunks.c.number)
    .join(_SOME, and_(chunks.c.batch == _SOME.c.batch, chunks.c.number == _SOME.c.chunk))
    .where(chunks.c.state == ChunkState.DONE)
    .distinct()
)


def retry_failures(database: Database, batch: BatchId, *, code: str | None = None) -> int:
    """Have the batch's failures (those with this code) judged again, and return how many that newly are.

    Verdicts are never touched. Rows that were refused at submission are left out: they were never judged, and what is
    wrong with them stands in the manifest. Attempts start anew. Raises UsageError for a batch that is unknown,
    unfinished or cancelled.
    """
    return database.transact(lambda connection: _retry(connection, batch, code))


def asked_again(connection: Connection, batch: int, rows: ColumnElement[bool]) -> frozenset[Row]:
    """Rows whose failure is to be replaced; `rows` is a condition on retries.c."""
    return frozenset(map(Row, connection.scalars(select(retries.c.row).where(retries.c.batch == batch, rows))))


def make_room(connection: Connection, batch: int, rows: Collection[int]) -> None:
    """Move those failures of these rows that are retried into the history: what is inserted next is their outcome.

    Call it in the transaction that inserts. Rows that nobody asked to retry keep their outcome.
    """
    again = sorted(asked_again(connection, batch, retries.c.row.in_(list(rows))))
    if not again:
        return
    these = (outcomes.c.batch == batch, outcomes.c.row.in_(again), outcomes.c.label.is_(None))
    kept = [column.name for column in failure_history.columns if column.name != "replaced_at"]
    old = select(*(outcomes.c[name] for name in kept), db_now()).where(*these)
    connection.execute(insert(failure_history).from_select([*kept, "replaced_at"], old))
    connection.execute(delete(outcomes).where(*these))
    connection.execute(delete(retries).where(retries.c.batch == batch, retries.c.row.in_(again)))


def forgotten_retries(connection: Connection) -> list[tuple[int, int]]:
    """Chunks, by batch and number, that are done and still hold retries.

    A worker of an older version sees nothing to judge in a retried chunk, and finishes it.
    """
    return [(row.batch, row.number) for row in connection.execute(_FORGOTTEN)]


def revive(connection: Connection, some: Collection[tuple[int, int]]) -> None:
    """Make these chunks pending again, if they are still done."""
    for batch, number in some:
        this = (chunks.c.batch == batch, chunks.c.number == number, chunks.c.state == ChunkState.DONE)
        connection.execute(update(chunks).where(*this).values(afresh()))


def afresh() -> Mapping[str, Any]:
    """Column values of a chunk whose failures are retried: pending, as if it had never been tried."""
    nobody = dict.fromkeys(("token", "lease_until", "marker_row", "marker_stage", "hand_first", "hand_last", "sent_at"))
    return {**nobody, "state": ChunkState.PENDING, "attempts": 0, "deaths": 0, "sends": 0}


def _retry(connection: Connection, batch: BatchId, code: str | None) -> int:
    # key_share, as in cancel: a recorder holds its chunk and needs the batch's key for its foreign key.
    found = connection.execute(
        select(batches.c.state).where(batches.c.id == batch).with_for_update(key_share=True)
    ).first()
    _refuse(batch, None if found is None else found.state)
    failed = (chunks.c.batch == batch, chunks.c.failed > 0)
    # Chunks before outcomes, as whoever records does.
    connection.execute(select(chunks.c.number).where(*failed).order_by(chunks.c.number).with_for_update()).all()
    within = outcomes.c.row.between(chunks.c.first_row, chunks.c.last_row)
    these = [outcomes.c.label.is_(None), outcomes.c.attempt > 0]  # attempt 0: refused at submission
    these += [] if code is None else [outcomes.c.failure_code == code]
    known = exists().where(retries.c.batch == outcomes.c.batch, retries.c.row == outcomes.c.row)
    asked = (
        select(outcomes.c.batch, outcomes.c.row, chunks.c.number, db_now())
        .join(chunks, and_(chunks.c.batch == outcomes.c.batch, within))
        .where(outcomes.c.batch == batch, *failed, *these, ~known)
    )
    before = _outstanding(connection, batch)
    connection.execute(insert(retries).from_select(["batch", "row", "chunk", "asked_at"], asked))
    with_retries = chunks.c.number.in_(select(retries.c.chunk).where(retries.c.batch == batch))
    done = (chunks.c.batch == batch, chunks.c.state == ChunkState.DONE, with_retries)
    connection.execute(update(chunks).where(*done).values(afresh()))
    return _outstanding(connection, batch) - before


def _outstanding(connection: Connection, batch: BatchId) -> int:
    return connection.scalar(select(func.count()).select_from(retries).where(retries.c.batch == batch)) or 0


def _refuse(batch: BatchId, state: str | None) -> None:
    if state is None:
        raise UsageError("unknown_batch", f"there is no batch {batch}: `caption-audit status` lists them")
    if state == BatchState.CANCELLED:
        cure = "submit its pairs anew with --again"
        raise UsageError("batch_cancelled", f"batch {batch} was cancelled, and nothing revives it: {cure}")
    if state == BatchState.REGISTERING:
        cure = "run its submit command again"
        raise UsageError("batch_unfinished", f"batch {batch} was not submitted to its end: {cure}")
