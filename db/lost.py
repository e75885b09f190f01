"""Lost messages: chunks that were sent, that nobody claimed, and whose message does not lie in Redis any more."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Double, Integer, and_, bindparam, case, exists, select

from audit.message import Lane
from audit.redis_lists import Lying
from db.doorbell import FED, Doorbell, Window, doorbell
from db.engine import db_now
from db.tables import ChunkState, batches, chunks

MOST_RESENT = 64
"""A feed sends at most so many of a lane's lost messages again, and only into a list that has room for them: after an
outage with 100,000 of them Redis holds a window and so many for each worker that looked into it at that moment."""
# After once, twice, and then always four times the usual wait: a worker that loads its model holds what it took.
_DOUBLED: Any = case((chunks.c.sends > 2, 4.0), (chunks.c.sends == 2, 2.0), else_=1.0)
_OVERDUE = and_(
    chunks.c.state == ChunkState.SENT,
    FED,
    batches.c.lane == bindparam("lane"),
    db_now() - chunks.c.sent_at > bindparam("resend_s", type_=Double()) * _DOUBLED,
)
_IS_OVERDUE = select(exists().where(_OVERDUE, chunks.c.batch == batches.c.id))
_OVERDUE_ONES = (
    select(chunks.c.batch, chunks.c.number, chunks.c.pairs, chunks.c.rank, batches.c.lane)
    .join(batches, batches.c.id == chunks.c.batch)
    .where(_OVERDUE)
    .order_by(chunks.c.batch, chunks.c.number)  # as the index has them: it ends when there are enough
    .limit(bindparam("most", type_=Integer()))
)


def overdue_lanes(connection: Connection, model: str, resend_s: float) -> frozenset[Lane]:
    """Lanes with a message that should have been claimed by now."""
    # One question a lane, which ends at the first that is found: after an outage there may be very many.
    asked = {lane: {"model": model, "resend_s": resend_s, "lane": lane} for lane in Lane}
    return frozenset(lane for lane, question in asked.items() if connection.scalar(_IS_OVERDUE, question))


def lost(
    connection: Connection, model: str, resend_s: float, lying: Mapping[Lane, Lying], window: Window
) -> list[Doorbell]:
    """Overdue chunks, in their order, whose message is not among what lies in Redis; each keeps its rank."""
    chosen: list[Doorbell] = []
    for lane, there in lying.items():
        room = min(MOST_RESENT, window.chunks + MOST_RESENT - there.messages)
        if there.chunks is None or room <= 0:
            continue
        these = {"model": model, "resend_s": resend_s, "lane": lane, "most": room + len(there.chunks)}
        overdue = connection.execute(_OVERDUE_ONES, these)
        missing = [row for row in overdue.mappings() if (row["batch"], row["number"]) not in there.chunks]
        chosen += [replace(doorbell(dict(row), model, row["rank"]), again=True) for row in missing[:room]]
    return chosen
