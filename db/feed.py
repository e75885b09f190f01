"""The feed: which chunks go to Redis next.

Redis holds a small window of messages; the backlog stays in SQL, so that priorities and fairness are an ordering here
and Redis is flat at any size. The caller rings the doorbells that it is given, after the commit. The order itself is
in db/turns.py, bulk's share in db/share.py, and what is sent a second time in db/lost.py.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, exists, select, text, update

from audit.message import Lane
from audit.redis_lists import Lying
from db import lost
from db.doorbell import FED, Doorbell, Window
from db.engine import Database, db_now
from db.share import bulks_share
from db.tables import ChunkState, batches, chunks
from db.turns import in_turn, line, under_way

FEED_LOCK = 0x6361705F666565  # "cap_fee": one feeder at a time on PostgreSQL; SQLite has one writer anyway
WAITING = (ChunkState.PENDING, ChunkState.SENT)
_WAITS = select(exists().where(chunks.c.state.in_(WAITING), chunks.c.batch == batches.c.id, FED))
# The state is looked at again: between the choice and this line another session may have claimed or cancelled.
_SENT = (
    update(chunks)
    .where(chunks.c.batch == bindparam("its_batch"), chunks.c.number == bindparam("its_number"))
    .where(chunks.c.state.in_(WAITING))
    .values(state=ChunkState.SENT, sent_at=db_now(), sends=chunks.c.sends + 1, rank=bindparam("its_rank"))
)


def feed(
    database: Database, *, model: str, window: Window, resend_s: float = 0.0, lying: Mapping[Lane, Lying] | None = None
) -> list[Doorbell]:
    """Mark chunks as sent, up to the window, and return them, with those whose message is lost.

    `lying` is what the caller has just seen in Redis, by lane. A chunk of such a lane that nobody claimed within
    `resend_s`, and whose message does not lie there, is returned again; then after twice and four times that. (A
    message that lies there behind long chunks is late, not lost.) Returns nothing when another process is feeding.
    Raises LedgerUnavailable.
    """
    with database.reading() as connection:
        if not _anything_to_do(connection, model):
            return []  # a quiet ledger is only read: no writer's lock is taken every second for nothing
    return database.transact(lambda connection: _feed(connection, model, window, resend_s, lying or {}))


def overdue_lanes(database: Database, *, model: str, resend_s: float) -> frozenset[Lane]:
    """Lanes with a message that should have been claimed by now: it is time to look into Redis."""
    with database.reading() as connection:
        return lost.overdue_lanes(connection, model, resend_s)


def unsend(database: Database, doorbells: Sequence[Doorbell]) -> None:
    """Give back chunks whose message could not be sent."""

    def work(connection: Connection) -> None:
        for bell in doorbells:
            connection.execute(
                update(chunks)
                .where(chunks.c.batch == bell.batch, chunks.c.number == bell.chunk, chunks.c.state == ChunkState.SENT)
                .values(state=ChunkState.PENDING, sent_at=None, sends=chunks.c.sends - 1)
            )

    database.transact(work)


def _anything_to_do(connection: Connection, model: str) -> bool:
    return bool(connection.scalar(_WAITS, {"model": model}))


def _feed(
    connection: Connection, model: str, window: Window, resend_s: float, lying: Mapping[Lane, Lying]
) -> list[Doorbell]:
    if connection.dialect.name == "postgresql" and not connection.scalar(
        text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": FEED_LOCK}
    ):
        return []
    fresh = _interactive_and_bulk(connection, model, window)
    once = {(bell.batch, bell.chunk) for bell in fresh}  # a bulk message that starves may be lost, too
    missing = lost.lost(connection, model, resend_s, lying, window)
    again = [bell for bell in missing if (bell.batch, bell.chunk) not in once]
    return [bell for bell in [*again, *fresh] if _mark_sent(connection, bell)]


def _interactive_and_bulk(connection: Connection, model: str, window: Window) -> list[Doorbell]:
    quick, bulk = (under_way(connection, model, lane) for lane in (Lane.INTERACTIVE, Lane.BULK))
    interactive = in_turn(
        line(connection, model, Lane.INTERACTIVE, quick, window), Lane.INTERACTIVE, quick, window, model
    )
    waiting = line(connection, model, Lane.BULK, bulk, window)
    first = bulks_share(
        connection,
        model,
        interactive=interactive,
        interactive_waits=bool(interactive) or any(quick.sent.values()),
        waiting=waiting,
        way=bulk,
        window=window,
    )
    key = None if first is None else (first.batch, first.chunk)
    others = [one for one in waiting if (one.row["batch"], one.row["number"]) != key]
    return [*interactive, *([first] if first else []), *in_turn(others, Lane.BULK, bulk, window, model)]


def _mark_sent(connection: Connection, bell: Doorbell) -> bool:
    this = {"its_batch": bell.batch, "its_number": bell.chunk, "its_rank": int(bell.rank)}
    return connection.execute(_SENT, this).rowcount == 1


__all__ = ("Doorbell", "Window", "feed", "overdue_lanes", "unsend")
