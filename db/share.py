"""Bulk's share: under steady interactive load, a fifth of the pairs that are judged are the bulk lane's.

Interactive messages go first, so without this a steady stream of them would stop every bulk batch for good. Each
interactive chunk that is sent while bulk waits earns the bulk lane a quarter of its pairs (20 for 80); when that covers
the bulk chunk whose turn it is, this one is sent ahead of everything, and spends its pairs.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, insert, or_, select, update

from audit.message import Lane, Rank
from db.doorbell import FED, Doorbell, Window, doorbell
from db.engine import db_now
from db.tables import ChunkState, batches, chunks, feed_credit
from db.turns import Candidate, UnderWay

EARNED = 20 / 80
"""Pairs that bulk is owed for each interactive one: the share is 20 %."""
MOST_CHUNKS = 4
"""Credit for more chunks than this is forgotten, so that a quiet morning is not repaid by a slow afternoon."""
STARVED_S = 60.0
"""A bulk message that has waited for so long is sent a second time, with the share's rank. (The first one stays where
it is until interactive work pauses, and is refused then: that must not happen to every chunk.)"""

_LEFT = chunks.c.pairs - chunks.c.yes - chunks.c.no - chunks.c.maybe - chunks.c.failed
_STARVING = (
    select(chunks.c.batch, chunks.c.number, chunks.c.pairs, batches.c.lane, _LEFT.label("pairs_left"))
    .join(batches, batches.c.id == chunks.c.batch)
    .where(chunks.c.state == ChunkState.SENT, FED, batches.c.lane == Lane.BULK)
    .where(or_(chunks.c.rank.is_(None), chunks.c.rank > int(Rank.SHARE)))
    .where(db_now() - chunks.c.sent_at > bindparam("waits_s"))
    .order_by(chunks.c.sent_at)
    .limit(1)
)
_CREDIT = select(feed_credit.c.pairs).where(feed_credit.c.model == bindparam("model"))


def bulks_share(
    connection: Connection,
    model: str,
    *,
    interactive: Sequence[Doorbell],
    interactive_waits: bool,
    waiting: Sequence[Candidate],
    way: UnderWay,
    window: Window,
) -> Doorbell | None:
    """Keep the account, given the interactive chunks of this feed and the bulk lane's line.

    Returns the bulk chunk that goes ahead of everything, if one does: one that starves, or the first of the line.
    """
    before = _credit(connection, model)
    if not waiting and not any(way.sent.values()):
        _keep(connection, model, before, 0.0)
        return None
    credit = (before or 0.0) + EARNED * sum(bell.pairs for bell in interactive)
    first = waiting[0] if waiting else None
    if interactive_waits:
        first = _starving(connection, model, line_is_empty=not waiting) or first
    if first is None:
        _keep(connection, model, before, credit)
        return None
    credit = min(credit, MOST_CHUNKS * float(first.pairs_left))
    goes = interactive_waits and credit >= first.pairs_left and way.sent[Rank.SHARE] < window.slots
    _keep(connection, model, before, credit - first.pairs_left if goes else credit)
    return doorbell(first.row, model, Rank.SHARE) if goes else None


def _starving(connection: Connection, model: str, *, line_is_empty: bool) -> Candidate | None:
    """The bulk message that waits longest, if that is long; the last ones of the lane are not made to wait for it."""
    waits_s = 0.0 if line_is_empty else STARVED_S
    row = connection.execute(_STARVING, {"model": model, "waits_s": waits_s}).mappings().first()
    return None if row is None else Candidate(row=dict(row), pairs_left=row["pairs_left"], ahead=True)


def _credit(connection: Connection, model: str) -> float | None:
    found = connection.scalar(_CREDIT, {"model": model})
    return None if found is None else float(found)


def _keep(connection: Connection, model: str, before: float | None, pairs: float) -> None:
    if before is None and pairs:
        connection.execute(insert(feed_credit).values(model=model, pairs=pairs))
    elif before is not None and pairs != before:
        connection.execute(update(feed_credit).where(feed_credit.c.model == model).values(pairs=pairs))
