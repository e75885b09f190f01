"""The feed: which chunks go to Redis next.

Redis holds a small window of messages; the backlog stays in SQL, so that priorities and fairness are an ordering here
and Redis is flat at any size. The caller rings the doorbells that it is given, after the commit.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, exists, func, select, text, update

from audit.message import Lane
from audit.pair import BatchId, ChunkNumber
from db.engine import Database, db_now
from db.tables import BatchState, ChunkState, batches, chunks

FEED_LOCK = 0x6361705F666565  # "cap_fee": one feeder at a time on PostgreSQL; SQLite has one writer anyway
MOST_DOUBLINGS = 2
MOST_RESENT = 64
"""A feed sends at most so many lost messages again, so that an outage does not end in a flood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doorbell:
    """A message to be sent: this chunk, on this lane, to workers that hold this model; `pairs` is for people."""

    batch: BatchId
    chunk: ChunkNumber
    pairs: int
    lane: Lane
    model: str


def feed(
    database: Database, *, model: str, window: int, resend_s: float, drained: Container[Lane] = frozenset(Lane)
) -> list[Doorbell]:
    """Mark up to `window` chunks a lane as sent and return them, with those whose message seems lost.

    A chunk that nobody claimed within `resend_s` is returned again, then after twice and four times that, if its lane
    is in `drained`: those whose queue in Redis is known to be empty. (A message behind long chunks is late, not lost.)
    Returns nothing when another process is feeding. Raises LedgerUnavailable.
    """
    with database.reading() as connection:
        if not _anything_to_do(connection, model):
            return []  # a quiet ledger is only read: no writer's lock is taken every second for nothing
    return database.transact(lambda connection: _feed(connection, model, window, resend_s, drained))


def overdue_lanes(database: Database, *, model: str, resend_s: float) -> frozenset[Lane]:
    """Lanes with a message that should have been claimed by now: it is time to look into Redis."""
    with database.reading() as connection:
        return frozenset(bell.lane for bell in _lost(connection, model, resend_s))


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
    waiting = chunks.c.state.in_((ChunkState.PENDING, ChunkState.SENT))
    return bool(connection.scalar(select(exists().where(waiting, chunks.c.batch == batches.c.id, _open(model)))))


def _feed(connection: Connection, model: str, window: int, resend_s: float, drained: Container[Lane]) -> list[Doorbell]:
    if connection.dialect.name == "postgresql" and not connection.scalar(
        text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": FEED_LOCK}
    ):
        return []
    chosen = [bell for bell in _lost(connection, model, resend_s) if bell.lane in drained][:MOST_RESENT]
    for lane in Lane:
        chosen += _next(connection, model, lane, window)
    return [bell for bell in chosen if _mark_sent(connection, bell)]


def _mark_sent(connection: Connection, bell: Doorbell) -> bool:
    # The state is looked at again: between the choice and this line another session may have claimed or cancelled.
    still_waiting = chunks.c.state.in_((ChunkState.PENDING, ChunkState.SENT))
    marked = connection.execute(
        update(chunks)
        .where(chunks.c.batch == bell.batch, chunks.c.number == bell.chunk, still_waiting)
        .values(state=ChunkState.SENT, sent_at=db_now(), sends=chunks.c.sends + 1)
    )
    return marked.rowcount == 1


def _open(model: str) -> Any:
    return (batches.c.state == BatchState.OPEN) & (batches.c.model == model)


def _lost(connection: Connection, model: str, resend_s: float) -> list[Doorbell]:
    sent = connection.execute(
        select(
            chunks.c.batch,
            chunks.c.number,
            chunks.c.pairs,
            chunks.c.sends,
            batches.c.lane,
            (db_now() - chunks.c.sent_at).label("age"),
        )
        .join(batches, batches.c.id == chunks.c.batch)
        .where(chunks.c.state == ChunkState.SENT, _open(model))
        .order_by(chunks.c.sent_at)
    )
    due = [dict(row) for row in sent.mappings() if row["age"] > resend_s * 2 ** min(row["sends"] - 1, MOST_DOUBLINGS)]
    return [_bell(row, model) for row in due]


def _next(connection: Connection, model: str, lane: Lane, window: int) -> list[Doorbell]:
    """Pending chunks by priority, tenants in turn (who has least under way goes first), older batches first."""
    room = window - _under_way(connection, model, lane, ChunkState.SENT).total
    if room <= 0:
        return []
    pending = exists().where(chunks.c.batch == batches.c.id, chunks.c.state == ChunkState.PENDING)
    waiting = connection.execute(
        select(batches.c.id, batches.c.tenant, batches.c.priority, batches.c.lane)
        .where(_open(model), batches.c.lane == lane, pending)
        .order_by(batches.c.priority.desc(), batches.c.id)
    )
    busy = dict(_under_way(connection, model, lane, ChunkState.SENT, ChunkState.RUNNING).by_tenant)
    candidates: list[tuple[tuple[int, int, int, int], Mapping[str, Any]]] = []
    taken: dict[tuple[int, str], int] = {}
    for batch in waiting.mappings():
        for chunk in _pending_chunks(connection, batch["id"], room):
            turn = (batch["priority"], batch["tenant"])
            taken[turn] = taken.get(turn, busy.get(batch["tenant"], 0)) + 1
            order = (-batch["priority"], taken[turn], batch["id"], chunk["number"])
            candidates.append((order, {**batch, **chunk, "batch": batch["id"]}))
    candidates.sort(key=lambda candidate: candidate[0])
    return [_bell(row, model) for _, row in candidates[:room]]


@dataclass(frozen=True, slots=True)
class _UnderWay:
    by_tenant: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.by_tenant.values())


def _under_way(connection: Connection, model: str, lane: Lane, *states: ChunkState) -> _UnderWay:
    counted = connection.execute(
        select(batches.c.tenant, func.count().label("under_way"))
        .join(chunks, chunks.c.batch == batches.c.id)
        .where(chunks.c.state.in_(states), _open(model), batches.c.lane == lane)
        .group_by(batches.c.tenant)
    )
    return _UnderWay({row.tenant: row.under_way for row in counted})


def _pending_chunks(connection: Connection, batch: BatchId, most: int) -> list[Mapping[str, Any]]:
    # Chunks that were tried before go first: they are what a batch's end waits for.
    found = connection.execute(
        select(chunks.c.number, chunks.c.pairs)
        .where(chunks.c.state == ChunkState.PENDING, chunks.c.batch == batch)
        .order_by((chunks.c.attempts + chunks.c.deaths > 0).desc(), chunks.c.number)
        .limit(most)
    )
    return [dict(row) for row in found.mappings()]


def _bell(row: Mapping[str, Any], model: str) -> Doorbell:
    return Doorbell(
        batch=BatchId(row["batch"]),
        chunk=ChunkNumber(row["number"]),
        pairs=int(row["pairs"]),
        lane=Lane(row["lane"]),
        model=model,
    )
