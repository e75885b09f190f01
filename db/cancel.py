"""Cancelling a batch: what is judged stays, nothing more is judged, and nothing revives it."""

from collections.abc import Collection

from sqlalchemy import Connection, delete, func, select, update

from audit.errors import UsageError
from audit.pair import BatchId
from db.engine import Database, db_now
from db.lease import no_holder
from db.tables import BatchState, ChunkState, batches, chunks, retries, suspects

UNFINISHED = (ChunkState.PENDING, ChunkState.SENT, ChunkState.RUNNING, ChunkState.PARKED)


def cancel_batch(database: Database, batch: BatchId) -> int:
    """Cancel what has no outcome yet and return how many pairs that is; again, it changes nothing and returns 0.

    Failures that are to be retried keep the outcome that they have. A worker in the middle of a chunk is told within
    about a second (`cancelled_among`), between two micro-batches; until its lease ends it may still record what it has
    judged, and so many pairs fewer are cancelled. Raises UsageError for an unknown batch.
    """
    return database.transact(lambda connection: _cancel(connection, batch))


def cancelled_among(database: Database, some: Collection[int]) -> frozenset[int]:
    """Which of these batches are cancelled."""
    if not some:
        return frozenset()
    cancelled = (batches.c.id.in_(sorted(some)), batches.c.state == BatchState.CANCELLED)
    with database.reading() as connection:
        return frozenset(connection.scalars(select(batches.c.id).where(*cancelled)))


def _cancel(connection: Connection, batch: BatchId) -> int:
    # key_share: a recorder holds its chunk and needs the batch's key for its foreign key; a full lock would deadlock.
    found = connection.execute(
        select(batches.c.state).where(batches.c.id == batch).with_for_update(key_share=True)
    ).first()
    if found is None:
        raise UsageError("unknown_batch", f"there is no batch {batch}: `caption-audit status` lists them")
    judged = chunks.c.yes + chunks.c.no + chunks.c.maybe + chunks.c.failed
    open_chunks = (chunks.c.batch == batch, chunks.c.state.in_(UNFINISHED))
    # Lock the chunks before counting: a worker may be recording right now.
    connection.execute(select(chunks.c.number).where(*open_chunks).order_by(chunks.c.number).with_for_update()).all()
    for table in (retries, suspects):  # nothing of the batch will be judged again
        connection.execute(delete(table).where(table.c.batch == batch))
    done = {"state": ChunkState.DONE, "done_at": func.coalesce(chunks.c.done_at, db_now())}
    connection.execute(
        update(chunks).where(*open_chunks, judged == chunks.c.pairs).values({**no_holder(), **done})
    )  # retried
    left = connection.scalar(select(func.coalesce(func.sum(chunks.c.pairs - judged), 0)).where(*open_chunks)) or 0
    if left == 0 and found.state != BatchState.REGISTERING:
        return 0
    held = (*open_chunks, chunks.c.state == ChunkState.RUNNING)
    # Its token and its lease stay: they let the holder record what it has judged.
    connection.execute(
        update(chunks).where(*held).values(state=ChunkState.CANCELLED, marker_row=None, marker_stage=None)
    )
    connection.execute(update(chunks).where(*open_chunks).values(state=ChunkState.CANCELLED, **no_holder()))
    connection.execute(
        update(batches).where(batches.c.id == batch).values(state=BatchState.CANCELLED, cancelled_at=db_now())
    )
    return int(left)
