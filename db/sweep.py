"""Sweeping: chunks whose holder died or hangs become claimable again, without waiting for anybody's message."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, select, update

from audit.holder import Holder
from audit.pair import BatchId, ChunkNumber
from db.claim import locked_chunk
from db.death import OTHERS_WAIT_S, Cause, Death, bury, death_of, holder_of, is_expired, is_orphaned, keeper_of
from db.engine import Database, db_now
from db.retry import forgotten_retries, revive
from db.tables import BatchState, ChunkState, batches, chunks

_RUNNING = select(chunks, (db_now() - chunks.c.lease_until).label("expired_s")).where(
    chunks.c.state == ChunkState.RUNNING
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Buried:
    """A claim that was taken away: from whom, why, and whether its chunk is parked now (which needs a person).

    `named` is the failure's code if a pair was named for it.
    """

    batch: BatchId
    chunk: ChunkNumber
    holder: Holder
    cause: Cause
    attempt: int
    parked: bool
    named: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When a claim is taken away, and what is known of how its holder ended.

    `max_deaths` that blame no pair park the chunk. With `trust_leases` False only holders that are dead count: after an
    outage of the ledger every lease looks ended, though its holder only could not renew it. A worker's main process
    gives itself as `keeper`, `known` deaths of its children and the `hands` of those that live, by pid and start time:
    while it lives, others leave its children's claims to it until some time after the lease.
    """

    max_deaths: int
    trust_leases: bool = True
    keeper: Holder | None = None
    known: Mapping[tuple[int, int], Death] = field(default_factory=dict)
    hands: Mapping[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def abandoned(self, chunk: Mapping[str, Any]) -> bool:
        """Whether this running chunk is to be taken from its holder."""
        mine = self.keeper is not None and self.keeper == keeper_of(chunk)
        if (mine and _process(chunk) in self.known) or is_orphaned(chunk):
            return True
        return self.trust_leases and is_expired(chunk, wait_s=0.0 if mine else OTHERS_WAIT_S)

    def death(self, chunk: Mapping[str, Any]) -> Death:
        """How its holder ended; a keeper knows more than can be seen from outside."""
        mine = self.keeper is not None and self.keeper == keeper_of(chunk)
        process = _process(chunk)
        if mine and process in self.known:
            return self.known[process]
        return replace(death_of(chunk), hand=self.hands.get(process) if mine else None)


def _process(chunk: Mapping[str, Any]) -> tuple[int, int]:
    return chunk["holder_pid"], chunk["holder_started"]


def sweep(database: Database, rules: Rules) -> Iterator[Buried]:
    """Bury every abandoned claim, each in a transaction of its own, as the result is read. Raises LedgerUnavailable.

    Retries that an older worker has passed over are given a new chance, too.
    """
    with database.reading() as connection:
        found = connection.execute(_RUNNING)
        seen = [row for row in map(dict, found.mappings()) if rules.abandoned(row)]
        forgotten = forgotten_retries(connection)
    if forgotten:
        database.transact(lambda connection: revive(connection, forgotten))
    for row in seen:
        buried = _bury(database, row["batch"], row["number"], rules)
        if buried is not None:
            yield buried


def _bury(database: Database, batch: BatchId, number: ChunkNumber, rules: Rules) -> Buried | None:
    def work(connection: Connection) -> Buried | None:
        chunk = locked_chunk(connection, batch, number)
        if chunk is None or chunk["state"] != ChunkState.RUNNING or not rules.abandoned(chunk):
            return None
        death = rules.death(chunk)
        done = bury(connection, chunk, death, max_deaths=rules.max_deaths)
        return Buried(
            batch=batch,
            chunk=number,
            holder=holder_of(chunk),
            cause=death.cause,
            attempt=chunk["attempts"],
            parked=done.state is ChunkState.PARKED,
            named=done.named,
        )

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
