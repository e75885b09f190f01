"""How much of one model's work is open, by lane: for metrics, which ask every few seconds."""

from dataclasses import dataclass

from sqlalchemy import text

from audit.message import Lane
from db.engine import SQL_NOW, Database

_LOAD = (
    "SELECT b.lane, sum(c.pairs) AS pairs, sum(c.judged) AS judged, sum(c.parked) AS parked,"
    " min(CASE WHEN c.waits > 0 THEN coalesce(b.opened_at, b.created_at) END) AS since, {now} AS now"
    " FROM batches b JOIN (SELECT batch, sum(CASE state WHEN 'parked' THEN 0 ELSE pairs END) AS pairs,"
    " sum(CASE state WHEN 'parked' THEN 0 ELSE yes + no + maybe + failed END) AS judged,"
    " sum(CASE state WHEN 'parked' THEN 1 ELSE 0 END) AS parked,"
    " sum(CASE WHEN state IN ('pending', 'sent') THEN 1 ELSE 0 END) AS waits"
    " FROM chunks WHERE state IN ('pending', 'sent', 'running', 'parked') GROUP BY batch) c ON c.batch = b.id"
    " WHERE b.state = 'open' AND b.model = :model GROUP BY b.lane"
)
"""Chunks are summed up by batch first: a join of each of 40,000 with its batch would cost more than the sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLoad:
    """`pairs` without an outcome in chunks that wait or are worked at; `oldest_s` since the oldest batch was opened
    of which a chunk waits, None when none does; `parked` chunks wait for a person and count in neither."""

    lane: Lane
    pairs: int
    oldest_s: float | None
    parked: int


def queue_load(database: Database, model: str) -> list[LaneLoad]:
    """Both lanes, empty or not. Raises LedgerUnavailable."""
    now = SQL_NOW["sqlite" if database.is_sqlite else "postgresql"]
    with database.reading() as connection:
        found = {row.lane: row for row in connection.execute(text(_LOAD.format(now=now)), {"model": model})}
    return [
        LaneLoad(
            lane=lane,
            pairs=int(row.pairs - row.judged) if row else 0,
            oldest_s=max(0.0, float(row.now - row.since)) if row and row.since is not None else None,
            parked=int(row.parked) if row else 0,
        )
        for lane in Lane
        for row in [found.get(lane.value)]
    ]
