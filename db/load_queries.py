"""The load that the ledger has seen: pairs submitted and judged a day, and what a pair took.

Sums over chunks and never over outcomes: ten million pairs are some ten thousand chunks, so this takes a moment. Days
are those of UTC by the database's own clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, case, cast, func, select

from db.engine import Database, db_now
from db.tables import BatchState, ChunkState, batches, chunks, workers

DAY_S = 86_400
_JUDGED = chunks.c.yes + chunks.c.no + chunks.c.maybe + chunks.c.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class DayLoad:
    """One day: pairs submitted in each lane, and pairs judged on it, whenever they were submitted."""

    day: date
    submitted: Mapping[str, int]
    judged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Chunks of one model that were done in their first attempt: their pairs, and the seconds of a slot they took."""

    model: str
    chunks: int
    pairs: int
    slot_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """`days` are whole days without a gap, from the first one with a batch (or the first asked for) to yesterday.

    `work` is of the last `work_days` days; `slots_a_worker` is an average over the workers seen in them, None when none
    was. `waiting` pairs of open batches have no outcome yet. `now` is in seconds since the epoch.
    """

    now: float
    days: Sequence[DayLoad]
    work: Sequence[Work]
    work_days: int
    slots_a_worker: float | None
    waiting: int

    @property
    def today(self) -> date:
        """The day that is not over yet."""
        return _date(int(self.now // DAY_S))


def load(database: Database, *, days: int, work_days: int) -> Load:
    """Everything of at most the last `days` days, of one state of the ledger. Raises LedgerUnavailable."""
    with database.reading() as connection:
        now = float(connection.scalar(select(db_now())) or 0.0)
        today = int(now // DAY_S)
        since = (today - days) * DAY_S
        submitted = _submitted(connection, since, today * DAY_S)
        first = min(submitted, default=today)
        judged = _judged(connection, first * DAY_S, today * DAY_S)
        work_since = now - work_days * DAY_S
        return Load(
            now=now,
            days=[
                DayLoad(day=_date(day), submitted=submitted.get(day, {}), judged=judged.get(day, 0))
                for day in range(first, today)
            ],
            work=_work(connection, work_since),
            work_days=work_days,
            slots_a_worker=_slots_a_worker(connection, work_since),
            waiting=_waiting(connection),
        )


def _submitted(connection: Connection, since: float, until: float) -> dict[int, dict[str, int]]:
    """Day -> lane -> pairs. Of a cancelled chunk only what was judged: a submission by mistake is no load."""
    day = _day(connection, batches.c.created_at)
    wanted = case((chunks.c.state == ChunkState.CANCELLED, _JUDGED), else_=chunks.c.pairs)
    query = (
        select(day.label("day"), batches.c.lane, func.sum(wanted))
        .join(chunks, chunks.c.batch == batches.c.id)
        .where(batches.c.state != BatchState.REGISTERING)
        .where(batches.c.created_at >= since, batches.c.created_at < until)
        .group_by(day, batches.c.lane)
        .order_by(day, batches.c.lane)
    )
    found: dict[int, dict[str, int]] = {}
    for number, lane, pairs in connection.execute(query):
        found.setdefault(int(number), {})[str(lane)] = int(pairs)
    return found


def _judged(connection: Connection, since: float, until: float) -> dict[int, int]:
    """Day -> pairs of the chunks that were finished on it."""
    day = _day(connection, chunks.c.done_at)
    query = (
        select(day.label("day"), func.sum(_JUDGED))
        .where(chunks.c.state == ChunkState.DONE, chunks.c.done_at >= since, chunks.c.done_at < until)
        .group_by(day)
    )
    return {int(number): int(pairs) for number, pairs in connection.execute(query)}


def _work(connection: Connection, since: float) -> list[Work]:
    """A second attempt judges what the first one left, and its seconds would tell of fewer pairs than the chunk has."""
    took = chunks.c.done_at - chunks.c.claimed_at
    query = (
        select(batches.c.model, func.count(), func.sum(_JUDGED), func.sum(took))
        .join(chunks, chunks.c.batch == batches.c.id)
        .where(chunks.c.state == ChunkState.DONE, chunks.c.done_at >= since, chunks.c.attempts == 1, took > 0)
        .group_by(batches.c.model)
        .order_by(func.sum(_JUDGED).desc(), batches.c.model)
    )
    return [
        Work(model=str(model), chunks=int(count), pairs=int(pairs), slot_s=float(seconds))
        for model, count, pairs, seconds in connection.execute(query)
    ]


def _slots_a_worker(connection: Connection, since: float) -> float | None:
    slots = (
        select(func.count().label("slots"))
        .where(workers.c.seen_at >= since)
        .group_by(workers.c.host, workers.c.worker)
        .subquery()
    )
    average = connection.scalar(select(func.avg(slots.c.slots)))
    return None if average is None else float(average)


def _waiting(connection: Connection) -> int:
    undone = chunks.c.state.in_((ChunkState.PENDING, ChunkState.SENT, ChunkState.RUNNING))
    opened = chunks.c.batch.in_(select(batches.c.id).where(batches.c.state == BatchState.OPEN))
    return int(connection.scalar(select(func.sum(chunks.c.pairs - _JUDGED)).where(undone, opened)) or 0)


def _day(connection: Connection, seconds: ColumnElement[Any]) -> ColumnElement[int]:
    """Days since the epoch. A cast cuts off on SQLite, which may have no floor(), and rounds on PostgreSQL."""
    days = seconds / DAY_S
    return cast(days if connection.dialect.name == "sqlite" else func.floor(days), BigInteger)


def _date(number: int) -> date:
    return datetime(1970, 1, 1, tzinfo=UTC).date() + timedelta(days=number)
