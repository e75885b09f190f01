"""Sweeping: chunks whose holder died or hangs become claimable again, without waiting for anybody's message."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, update

from audit.holder import Holder
from audit.pair import BatchId, ChunkNumber
from db.claim import locked_chunk
from db.death import Cause, bury, cause_of_death, holder_of, is_abandoned
from db.engine import Database, db_now
from db.tables import BatchState, ChunkState, batches, chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Buried:
    """A claim that was taken away: from whom, why, and whether its chunk is parked now (which needs a person)."""

    batch: BatchId
    chunk: ChunkNumber
    holder: Holder
    cause: Cause
    parked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When a claim is taken away.

    `max_deaths` that blame no pair park the chunk. With `trust_leases` False only holders that are proved dead count:
    after an outage of the ledger every lease looks ended, though its holder only could not renew it. `overdue` are
    pids of this host that a time limit has killed.
    """

    max_deaths: int
    trust_leases: bool = True
    overdue: frozenset[int] = frozenset()

    def abandoned(self, chunk: Mapping[str, Any]) -> bool:
        """Whether this running chunk is to be taken from its holder."""
        return is_abandoned({**chunk, "expired": bool(chunk["expired"]) and self.trust_leases})


def sweep(database: Database, rules: Rules) -> list[Buried]:
    """Bury every abandoned claim, each in a transaction of its own. Raises LedgerUnavailable."""
    running = select(chunks, (chunks.c.lease_until < db_now()).label("expired"))
    with database.reading() as connection:
        found = connection.execute(running.where(chunks.c.state == ChunkState.RUNNING))
        seen = [row for row in map(dict, found.mappings()) if rules.abandoned(row)]
    buried = (_bury(database, row["batch"], row["number"], rules) for row in seen)
    return [one for one in buried if one is not None]


def _bury(database: Database, batch: BatchId, number: ChunkNumber, rules: Rules) -> Buried | None:
    def work(connection: Connection) -> Buried | None:
        chunk = locked_chunk(connection, batch, number)
        if chunk is None or chunk["state"] != ChunkState.RUNNING or not rules.abandoned(chunk):
            return None
        cause = Cause.STUCK if chunk["holder_pid"] in rules.overdue else cause_of_death(chunk)
        parked = bury(connection, chunk, cause, max_deaths=rules.max_deaths) is ChunkState.PARKED
        return Buried(batch=batch, chunk=number, holder=holder_of(chunk), cause=cause, parked=parked)

    return database.transact(work)


def unpark(database: Database) -> int:
    """Give every parked chunk of an open batch a new life; returns how many. For a person who has mended the cause."""
    open_batches = select(batches.c.id).where(batches.c.state == BatchState.OPEN)
    revived = (
        update(chunks)
        .where(chunks.c.state == ChunkState.PARKED, chunks.c.batch.in_(open_batches))
        .values(state=ChunkState.PENDING, deaths=0, sent_at=None, sends=0)
    )
    return database.transact(lambda connection: connection.execute(revived).rowcount)


def parked_chunks(database: Database) -> Sequence[tuple[BatchId, ChunkNumber]]:
    """Chunks that died too often and wait for a person."""
    with database.reading() as connection:
        found = connection.execute(select(chunks.c.batch, chunks.c.number).where(chunks.c.state == ChunkState.PARKED))
        return [(BatchId(batch), ChunkNumber(number)) for batch, number in found]
