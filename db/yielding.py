"""Who gives way: which of the chunks in hand should be put back for one that waits and goes before it."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, exists, func, or_, select

from audit.message import Lane, Rank, rank_in
from audit.pair import BatchId, ChunkNumber
from db.doorbell import FED
from db.engine import Database, db_now
from db.tables import ChunkState, batches, chunks, suspects

Held = tuple[BatchId, ChunkNumber]
Order = tuple[int, int]
"""How soon a chunk's message is taken: by rank, and of one rank interactive before bulk."""
_WAITING = (
    select(chunks.c.rank, batches.c.lane)
    .join(batches, batches.c.id == chunks.c.batch)
    .where(chunks.c.state == ChunkState.SENT, FED, chunks.c.rank.between(Rank.AHEAD, Rank.INTERACTIVE))
    .where(db_now() - chunks.c.sent_at > bindparam("waits_s"), db_now() - chunks.c.sent_at < bindparam("lost_s"))
    .distinct()
)


def who_yields(database: Database, *, model: str, held: Collection[Held], waits_s: float, lost_s: float) -> Held | None:
    """Of the chunks that a worker's slots have in hand the last in order, if one that goes before it waits in Redis.

    It waits when it was sent over `waits_s` ago (and not `lost_s`: then its message is lost, and no free slot helps).
    None when a slot works on something that goes before or beside it: that slot will take it. Bulk's share and
    careful chunks are neither asked nor counted. Raises LedgerUnavailable.
    """
    with database.reading() as connection:
        first = _first_waiting(connection, model, waits_s, lost_s)
        running = _running(connection, held) if first is not None else []
    if first is None or not running or any(order <= first for order, _ in running):
        return None
    last = max(order for order, _ in running)
    return next(one for order, one in running if order == last)


def _first_waiting(connection: Connection, model: str, waits_s: float, lost_s: float) -> Order | None:
    found = connection.execute(_WAITING, {"model": model, "waits_s": waits_s, "lost_s": lost_s})
    return min((_order(row.rank, row.lane) for row in found), default=None)


def _running(connection: Connection, held: Collection[Held]) -> Sequence[tuple[Order, Held]]:
    """Those that run and may be asked, the longest first."""
    column = chunks.c
    these: list[ColumnElement[bool]] = [and_(column.batch == batch, column.number == chunk) for batch, chunk in held]
    suspected = exists().where(
        suspects.c.batch == column.batch, suspects.c.row.between(column.first_row, column.last_row)
    )
    found = connection.execute(
        select(column.batch, column.number, column.rank, batches.c.lane)
        .join(batches, batches.c.id == column.batch)
        .where(or_(*these), column.state == ChunkState.RUNNING, column.deaths == 0, ~suspected)
        .where(func.coalesce(column.rank, int(Rank.BULK)) > int(Rank.SHARE))
        .order_by(column.claimed_at)
    )
    return [(_order(row.rank, row.lane), (BatchId(row.batch), ChunkNumber(row.number))) for row in found]


def _order(rank: int | None, lane: Any) -> Order:
    place = Lane(lane)
    return rank_in(place, ahead=False) if rank is None else rank, list(Lane).index(place)
