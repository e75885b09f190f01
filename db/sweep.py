"""Sweeping: chunks whose holder died or hangs become claimable again, without waiting for anybody's message."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from audit.holder import Holder
from audit.pair import BatchId, ChunkNumber
from db.claim import locked_chunk
from db.death import Cause, bury, cause_of_death, holder_of, is_abandoned
from db.engine import Database, db_now
from db.tables import ChunkState, chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Buried:
    """A claim that was taken away: from whom, why, and whether its chunk is parked now (which needs a person)."""

    batch: BatchId
    chunk: ChunkNumber
    holder: Holder
    cause: Cause
    parked: bool


def sweep(database: Database, *, max_deaths: int, trust_leases: bool = True) -> list[Buried]:
    """Bury every abandoned claim, each in a transaction of its own.

    With `trust_leases` False only holders that are proved dead count: after an outage of the ledger every lease looks
    ended, though its holder only could not renew it.
    """
    with database.reading() as connection:
        running = connection.execute(
            select(chunks, (chunks.c.lease_until < db_now()).label("expired")).where(
                chunks.c.state == ChunkState.RUNNING
            )
        )
        seen = [row for row in running.mappings() if is_abandoned({**row, "expired": row["expired"] and trust_leases})]
    buried = (_bury(database, row["batch"], row["number"], max_deaths, trust_leases) for row in seen)
    return [one for one in buried if one is not None]


def _bury(
    database: Database, batch: BatchId, number: ChunkNumber, max_deaths: int, trust_leases: bool
) -> Buried | None:
    def work(connection: Connection) -> Buried | None:
        chunk = locked_chunk(connection, batch, number)
        if chunk is None or chunk["state"] != ChunkState.RUNNING:
            return None
        if not is_abandoned({**chunk, "expired": chunk["expired"] and trust_leases}):
            return None
        cause = cause_of_death(chunk)
        state = bury(connection, chunk, cause, max_deaths=max_deaths)
        return Buried(
            batch=batch, chunk=number, holder=holder_of(chunk), cause=cause, parked=state is ChunkState.PARKED
        )

    return database.transact(work)


def parked_chunks(database: Database) -> Sequence[tuple[BatchId, ChunkNumber]]:
    """Chunks that died too often and wait for a person."""
    with database.reading() as connection:
        found = connection.execute(select(chunks.c.batch, chunks.c.number).where(chunks.c.state == ChunkState.PARKED))
        return [(BatchId(batch), ChunkNumber(number)) for batch, number in found]
