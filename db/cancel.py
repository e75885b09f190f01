"""Cancelling a batch: what is judged stays, nothing more is judged, and nothing revives it."""

from sqlalchemy import Connection, func, select, update

from audit.errors import UsageError
from audit.pair import BatchId
from db.engine import Database, db_now
from db.lease import no_holder
from db.tables import BatchState, ChunkState, batches, chunks

UNFINISHED = (ChunkState.PENDING, ChunkState.SENT, ChunkState.RUNNING, ChunkState.PARKED)


def cancel_batch(database: Database, batch: BatchId) -> int:
    """Cancel what has no outcome yet and return how many pairs that is; again, it changes nothing and returns 0.

    A worker in the middle of a chunk finds its token gone at its next renewal. Raises UsageError for an unknown batch.
    """
    return database.transact(lambda connection: _cancel(connection, batch))


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
    left = connection.scalar(select(func.coalesce(func.sum(chunks.c.pairs - judged), 0)).where(*open_chunks)) or 0
    if left == 0 and found.state != BatchState.REGISTERING:
        return 0
    connection.execute(update(chunks).where(*open_chunks).values(state=ChunkState.CANCELLED, **no_holder()))
    connection.execute(
        update(batches).where(batches.c.id == batch).values(state=BatchState.CANCELLED, cancelled_at=db_now())
    )
    return int(left)
