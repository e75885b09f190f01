"""Asking the ledger: how far batches are, and what became of their pairs (db/exports.py).

Counts are sums over chunks, so ten million pairs answer as quickly as a hundred.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, and_, case, func, select

from audit.errors import UsageError
from audit.pair import BatchId
from db.engine import Database, db_now
from db.exports import OutcomeRow, outcomes
from db.tables import BatchState, ChunkState, batches, chunks, retries
from db.tables import outcomes as outcomes_table

ProgressState = Literal["registering", "queued", "running", "done", "cancelled", "parked"]
BUSY_WINDOW_S = 60.0
"""How far back it counts how many slots were at work."""
SPEED_WINDOW_S = 600.0
"""How far back finished chunks tell a slot's speed; a chunk of a large model on CPU takes minutes."""
SUMS = ("chunks", "pairs", "yes", "no", "maybe", "failed", "flagged", "recent_pairs", "recent_s", "busy_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a batch is: submitted = yes + no + maybe + failed + cancelled + remaining, at every moment.

    `retrying` failures still count as `failed`: each stands until its new outcome replaces it. `parked` means that
    nothing is left but chunks whose processes died too often. `rate` is in pairs a second: lately while running, over
    the whole run when finished. Times are seconds since the epoch by the ledger's clock.
    """

    batch: BatchId
    name: str
    tenant: str
    lane: str
    model: str
    policy: str
    state: ProgressState
    submitted: int
    yes: int
    no: int
    maybe: int
    failed: int
    flagged: int
    cancelled: int
    remaining: int
    retrying: int
    chunks: Mapping[str, int]
    rate: float | None
    eta_s: float | None
    created_at: float
    started_at: float | None
    finished_at: float | None

    @property
    def judged(self) -> int:
        """Pairs with an outcome: verdicts and failures."""
        return self.yes + self.no + self.maybe + self.failed

    @property
    def finished(self) -> bool:
        """Whether nothing will change any more without somebody's doing."""
        return self.state in ("done", "cancelled", "parked")


def progress(database: Database, batch: BatchId) -> Progress:
    """One batch; raises UsageError (`unknown_batch`), LedgerUnavailable."""
    with database.reading() as connection:
        found = _progress(connection, batches.c.id == batch, limit=1)
    if not found:
        raise UsageError("unknown_batch", f"there is no batch {batch} in this ledger")
    return found[0]


def list_batches(database: Database, limit: int) -> list[Progress]:
    """The newest batches first."""
    with database.reading() as connection:
        return _progress(connection, None, limit=limit)


def failure_codes(database: Database, batch: BatchId) -> dict[str, int]:
    """How many pairs of the batch failed with each code, most frequent first; reads the batch's outcomes."""
    count = func.count().label("count")
    query = (
        select(outcomes_table.c.failure_code, count)
        .where(outcomes_table.c.batch == batch, outcomes_table.c.label.is_(None))
        .group_by(outcomes_table.c.failure_code)
        .order_by(count.desc(), outcomes_table.c.failure_code)
    )
    with database.reading() as connection:
        return {str(code): int(number) for code, number in connection.execute(query)}


def open_models(database: Database) -> list[str]:
    """The models of all batches that were neither cancelled nor left half registered."""
    query = select(batches.c.model).where(batches.c.state == BatchState.OPEN).distinct().order_by(batches.c.model)
    with database.reading() as connection:
        return list(connection.scalars(query))


def _progress(connection: Connection, condition: ColumnElement[bool] | None, *, limit: int) -> list[Progress]:
    chosen = select(batches).order_by(batches.c.id.desc()).limit(limit)
    if condition is not None:
        chosen = chosen.where(condition)
    rows = [dict(row) for row in connection.execute(chosen).mappings()]
    # Read once: PostgreSQL's clock_timestamp() advances from row to row of a sum.
    now = float(connection.scalar(select(db_now())) or 0.0)
    sums: dict[int, list[Mapping[str, Any]]] = {row["id"]: [] for row in rows}
    for line in connection.execute(_sums(now, list(sums))).mappings():
        sums[line["batch"]].append(dict(line))
    again = _retrying(connection, list(sums))
    return [_one(row, sums[row["id"]], now, again.get(row["id"], 0)) for row in rows]


def _retrying(connection: Connection, ids: list[int]) -> Mapping[int, int]:
    count = func.count().label("count")
    query = select(retries.c.batch, count).where(retries.c.batch.in_(ids)).group_by(retries.c.batch)
    return {row.batch: int(row[1]) for row in connection.execute(query)}


def _sums(now: float, ids: list[int]) -> Any:
    """One line a batch and chunk state."""
    judged = chunks.c.yes + chunks.c.no + chunks.c.maybe + chunks.c.failed
    since = now - BUSY_WINDOW_S
    # A chunk that was done when it was registered (bad rows alone) was never claimed, and says nothing about speed.
    claimed = chunks.c.claimed_at.is_not(None)
    recent = and_(chunks.c.state == ChunkState.DONE, chunks.c.done_at > now - SPEED_WINDOW_S, claimed)
    start = case((chunks.c.claimed_at > since, chunks.c.claimed_at), else_=since)
    alive = and_(chunks.c.state == ChunkState.RUNNING, chunks.c.lease_until > now)
    busy = case((alive, now - start), (and_(chunks.c.done_at > since, claimed), chunks.c.done_at - start), else_=0.0)
    totals = [func.sum(chunks.c[name]).label(name) for name in ("pairs", "yes", "no", "maybe", "failed", "flagged")]
    return (
        select(
            chunks.c.batch,
            chunks.c.state,
            func.count().label("chunks"),
            *totals,
            func.min(chunks.c.claimed_at).label("started_at"),
            func.max(chunks.c.done_at).label("done_at"),
            func.sum(case((recent, judged), else_=0)).label("recent_pairs"),
            func.sum(case((recent, chunks.c.done_at - chunks.c.claimed_at), else_=0.0)).label("recent_s"),
            func.sum(busy).label("busy_s"),
        )
        .where(chunks.c.batch.in_(ids))
        .group_by(chunks.c.batch, chunks.c.state)
    )


def _one(row: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], now: float, retrying: int) -> Progress:
    total = {name: sum(line[name] or 0 for line in lines) for name in SUMS}
    judged = sum(int(total[name]) for name in ("yes", "no", "maybe", "failed"))
    counts = {str(line["state"]): int(line["chunks"]) for line in lines}
    cancelled = sum(_unjudged(line) for line in lines if line["state"] == ChunkState.CANCELLED)
    parked = sum(_unjudged(line) for line in lines if line["state"] == ChunkState.PARKED)
    remaining = int(total["pairs"]) - judged - cancelled
    started_at = min((line["started_at"] for line in lines if line["started_at"] is not None), default=None)
    state = _state(row["state"], counts, started=started_at is not None or judged > 0)
    finished_at = _finished_at(state, row, lines)
    if finished_at is None:
        rate = _recent_rate(total, judged, started_at, now) if state == "running" else None
    else:
        rate = _ratio(judged, finished_at - (started_at or finished_at))
    eta_s = (remaining + retrying - parked) / rate if state == "running" and rate else None
    same: dict[str, Any] = {name: row[name] for name in ("name", "tenant", "lane", "model", "policy", "created_at")}
    same |= {name: int(total[name]) for name in ("yes", "no", "maybe", "failed", "flagged")}
    return Progress(
        batch=BatchId(row["id"]),
        **same,
        submitted=int(total["pairs"]),
        cancelled=cancelled,
        remaining=remaining,
        retrying=retrying,
        chunks=counts,
        state=state,
        rate=rate,
        eta_s=eta_s,
        started_at=started_at,
        finished_at=finished_at,
    )


def _unjudged(line: Mapping[str, Any]) -> int:
    return int(line["pairs"] - line["yes"] - line["no"] - line["maybe"] - line["failed"])


def _state(batch_state: str, counts: Mapping[str, int], *, started: bool) -> ProgressState:
    if batch_state == BatchState.REGISTERING:
        return "registering"
    if batch_state == BatchState.CANCELLED:
        return "cancelled"
    if any(counts.get(state) for state in (ChunkState.PENDING, ChunkState.SENT, ChunkState.RUNNING)):
        return "running" if started or counts.get(ChunkState.RUNNING) else "queued"
    return "parked" if counts.get(ChunkState.PARKED) else "done"


def _finished_at(state: ProgressState, row: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> float | None:
    if state == "cancelled":
        return float(row["cancelled_at"]) if row["cancelled_at"] is not None else None
    if state != "done":
        return None
    done: list[float] = [line["done_at"] for line in lines if line["done_at"] is not None]
    return max(done, default=row["opened_at"])


def _recent_rate(total: Mapping[str, float], judged: int, started_at: float | None, now: float) -> float | None:
    """A slot's speed over finished chunks, times the slots that were at work on average.

    Counting finished chunks in a window alone would err by up to one chunk a slot: large when chunks take 30 s.
    """
    if started_at is None:
        return None
    speed = _ratio(total["recent_pairs"], total["recent_s"])
    if speed is None:  # nothing finished lately: what the running chunks have recorded so far
        return _ratio(judged, now - started_at)
    return speed * total["busy_s"] / max(min(BUSY_WINDOW_S, now - started_at), 0.001)


def _ratio(amount: float, seconds: float) -> float | None:
    return amount / seconds if amount > 0 and seconds > 0 else None


__all__ = (
    "OutcomeRow",
    "Progress",
    "ProgressState",
    "failure_codes",
    "list_batches",
    "open_models",
    "outcomes",
    "progress",
)
