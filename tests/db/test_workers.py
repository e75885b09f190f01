"""What workers tell of themselves."""

from dataclasses import replace
from typing import Any

from sqlalchemy import text, update

from audit.holder import this_process
from audit.pair import BatchId, ChunkNumber
from db import tables
from db.engine import Database
from db.workers import KEPT_S, SlotSeen, SlotState, SlotTold, leave, seen, tell

HOLDER = this_process()
IDLE = SlotTold(slot=0, device="cpu", model="demo", state=SlotState.IDLE, child_pid=11)
JUDGING = SlotTold(
    slot=1,
    device="cuda:1",
    model="demo",
    state=SlotState.JUDGING,
    child_pid=12,
    model_revision="r1",
    precision="bf16",
    canary="passed",
    canary_age_s=50.0,
    batch=BatchId(2**60),
    chunk=ChunkNumber(3),
    chunk_age_s=4.0,
    deaths=2,
    recycled=1,
    rss_bytes=5_000_000_000,
    device_bytes=6_000_000_000,
)


def rounded(slot: SlotSeen) -> SlotSeen:
    ages = ("canary_age_s", "chunk_age_s", "up_s", "seen_age_s")
    told: dict[str, Any] = {name: getattr(slot, name) for name in ages}
    coarse: dict[str, Any] = {name: None if age is None else round(age, -1) for name, age in told.items()}
    return replace(slot, **coarse)


def test_a_worker_is_read_as_it_told_itself(database: Database) -> None:
    """Every column, unknown ones as unknown."""
    tell(database, HOLDER, "w@here", [IDLE, JUDGING], up_s=90.0)
    same = {"host": HOLDER.host, "worker": "w@here", "pid": HOLDER.pid, "up_s": 90.0, "seen_age_s": 0.0}
    told = [{name: getattr(slot, name) for name in SlotTold.__slots__} for slot in (IDLE, JUDGING)]
    told[1] |= {"canary_age_s": 50.0, "chunk_age_s": 0.0}
    assert [rounded(slot) for slot in seen(database)] == [SlotSeen(**{**one, **same}) for one in told]


def test_telling_again_replaces_what_was_told(database: Database) -> None:
    """A row a slot for ever, also when the slot has nothing in hand any more."""
    tell(database, HOLDER, "w@here", [IDLE, JUDGING], up_s=90.0)
    tell(database, HOLDER, "w@here", [IDLE, replace(IDLE, slot=1)], up_s=95.0)
    assert [(slot.state, slot.batch, slot.chunk_age_s) for slot in seen(database)] == [(SlotState.IDLE, None, None)] * 2


def test_a_worker_that_stopped_is_forgotten_and_others_are_not(database: Database) -> None:
    """Restarting ten times must not leave ten rows."""
    for name in ("one", "two"):
        tell(database, HOLDER, name, [IDLE], up_s=1.0)
    leave(database, HOLDER, "one")
    assert [slot.worker for slot in seen(database)] == ["two"]


def test_rows_of_a_day_ago_go_when_another_worker_tells(database: Database) -> None:
    """Who was killed stays to be seen in the morning, not for ever."""
    for name, age_s in (("yesterday", KEPT_S + 60), ("tonight", KEPT_S / 2)):
        tell(database, HOLDER, name, [IDLE], up_s=1.0)
        older = update(tables.workers).where(tables.workers.c.worker == name)
        database.transact(lambda c, q=older, s=age_s: c.execute(q.values(seen_at=tables.workers.c.seen_at - s)))  # type: ignore[misc]  # defaults bind them
    tell(database, HOLDER, "new", [IDLE], up_s=1.0)
    assert [slot.worker for slot in seen(database)] == ["new", "tonight"]


def test_hosts_with_wrong_clocks_are_told_by_the_databases(database: Database) -> None:
    """Times in the table are the database's own, or an age would be negative."""
    tell(database, HOLDER, "w", [JUDGING], up_s=90.0)
    with database.reading() as connection:
        odd = connection.scalar(text("SELECT count(*) FROM workers WHERE seen_at < chunk_since OR canary_at > seen_at"))
    assert odd == 0
