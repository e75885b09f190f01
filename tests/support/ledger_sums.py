"""What a batch's chunks went through, read straight from the ledger."""

from sqlalchemy import case, func, select

from audit.pair import BatchId
from audit.settings import Settings
from db import tables
from db.engine import db_now
from db.tables import ChunkState
from tests.support.running import ledger

UNTROUBLED = {"deaths": 0, "fenced": 0, "attempts": 1, "running": 0, "expired": 0}
"""`chunk_sums` of a batch that met no death and no takeover."""


def chunk_sums(settings: Settings, batch: BatchId) -> dict[str, int]:
    """Deaths, fenced writers, chunks that are held and leases that have ended; and the most attempts of a chunk."""
    chunks = tables.chunks.c
    late = (chunks.state == ChunkState.RUNNING) & (chunks.lease_until < db_now())
    asked = select(
        func.sum(chunks.deaths).label("deaths"),
        func.sum(chunks.fenced).label("fenced"),
        func.max(chunks.attempts).label("attempts"),
        func.sum(case((chunks.state == ChunkState.RUNNING, 1), else_=0)).label("running"),
        func.sum(case((late, 1), else_=0)).label("expired"),
    ).where(chunks.batch == batch)
    with ledger(settings) as database, database.reading() as connection:
        return {name: int(value) for name, value in connection.execute(asked).mappings().one().items()}


def chunk_holders(settings: Settings, batch: BatchId) -> set[str]:
    """Names of the hosts that hold a chunk of the batch."""
    chunks = tables.chunks.c
    asked = select(chunks.holder_host).where(chunks.batch == batch, chunks.state == ChunkState.RUNNING)
    with ledger(settings) as database, database.reading() as connection:
        return {str(host).split(" ")[0] for host in connection.execute(asked).scalars()}
