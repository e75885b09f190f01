"""What workers tell of themselves: a row a slot, written every few seconds by the worker's main process.

It is for people: no lease or sweep looks at it, and a claim only to leave a suspect to another slot. Ages are told as
seconds ago and become times by the database's clock, so that hosts whose clocks disagree can be read side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Text, bindparam, cast, delete, exists, select
from sqlalchemy.dialects import postgresql, sqlite

from audit.holder import Holder
from audit.pair import BatchId, ChunkNumber
from db.engine import Database, db_now
from db.tables import workers

KEPT_S = 86_400.0
"""How long the rows of a worker that is gone stay, for whoever looks in the morning."""
LATELY_S = 15.0
"""A worker that was heard of within so long is taken to live; it tells every few seconds."""
KEY = ("host", "worker", "slot")
AGES = {"started_at": "up_s", "canary_at": "canary_age_s", "chunk_since": "chunk_age_s"}
"""Columns that hold a time, and the age that is told of each; an unknown age is a time of null."""


class SlotState(StrEnum):
    """`loading` until the canary pair was judged, then `idle` or `judging`; `away` while the slot has no process."""

    LOADING = "loading"
    IDLE = "idle"
    JUDGING = "judging"
    AWAY = "away"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotTold:
    """One slot as its worker sees it. Ages are seconds ago; `deaths` and `recycled` count children."""

    slot: int
    device: str
    model: str
    state: SlotState
    child_pid: int | None = None
    model_revision: str | None = None
    precision: str | None = None
    canary: str | None = None
    canary_age_s: float | None = None
    batch: BatchId | None = None
    chunk: ChunkNumber | None = None
    chunk_age_s: float | None = None
    deaths: int = 0
    recycled: int = 0
    rss_bytes: int | None = None
    device_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSeen(SlotTold):
    """One slot as the ledger heard of it, `seen_age_s` ago; the other ages are those of now."""

    host: str
    worker: str
    pid: int
    up_s: float
    seen_age_s: float


def tell(database: Database, holder: Holder, worker: str, slots: Sequence[SlotTold], *, up_s: float) -> None:
    """Write the worker's slots, and forget workers that were not seen for a day. Raises LedgerUnavailable."""
    rows = [_row(holder, worker, slot, up_s) for slot in slots]

    def work(connection: Connection) -> None:
        dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
        times = {column: db_now() - bindparam(age, type_=workers.c[column].type) for column, age in AGES.items()}
        fresh = dialect.insert(workers).values(seen_at=db_now(), **times)
        updated = {column.name: fresh.excluded[column.name] for column in workers.c if column.name not in KEY}
        connection.execute(fresh.on_conflict_do_update(index_elements=KEY, set_=updated), rows)
        connection.execute(delete(workers).where(workers.c.seen_at < db_now() - KEPT_S))

    database.transact(work, tries=1)


def leave(database: Database, holder: Holder, worker: str) -> None:
    """Forget a worker that has stopped as it should. Raises LedgerUnavailable."""
    its_rows = delete(workers).where(workers.c.host == holder.host, workers.c.worker == worker)
    database.transact(lambda connection: connection.execute(its_rows), tries=1)


def seen(database: Database) -> list[SlotSeen]:
    """Every slot that was told of in the last day, by host, worker and slot. Raises LedgerUnavailable."""
    with database.reading() as connection:
        now = float(connection.scalar(select(db_now())) or 0.0)
        found = connection.execute(select(workers).order_by(*(workers.c[name] for name in KEY)))
        return [_seen(dict(row), now) for row in found.mappings()]


def another_slot(connection: Connection, model: str, but: str) -> bool:
    """Whether a slot other than `but` (`worker:slot`) holds the model and was lately ready to judge."""
    ready = workers.c.state.in_((SlotState.IDLE, SlotState.JUDGING))
    lately = workers.c.seen_at > db_now() - LATELY_S
    name = workers.c.worker + ":" + cast(workers.c.slot, Text)
    return bool(connection.scalar(select(exists().where(workers.c.model == model, ready, lately, name != but))))


def _row(holder: Holder, worker: str, slot: SlotTold, up_s: float) -> dict[str, Any]:
    same = (
        "slot", "device", "model", "state", "child_pid", "model_revision", "precision", "canary", "canary_age_s",
        "batch", "chunk", "chunk_age_s", "deaths", "recycled", "rss_bytes", "device_bytes",
    )  # fmt: skip
    return {
        "host": holder.host,
        "worker": worker,
        "pid": holder.pid,
        "boot": holder.boot,
        "started": holder.started,
        "up_s": up_s,
        **{name: getattr(slot, name) for name in same},
    }


def _seen(row: dict[str, Any], now: float) -> SlotSeen:
    def age(column: str) -> float | None:
        return None if row[column] is None else max(0.0, now - row[column])

    same = ("slot", "device", "model", "child_pid", "model_revision", "precision", "canary", "batch", "chunk", "deaths")
    more = ("recycled", "rss_bytes", "device_bytes", "host", "worker", "pid")
    return SlotSeen(
        **{name: row[name] for name in (*same, *more)},
        state=SlotState(row["state"]),
        canary_age_s=age("canary_at"),
        chunk_age_s=age("chunk_since"),
        up_s=age("started_at") or 0.0,
        seen_age_s=age("seen_at") or 0.0,
    )
