"""What a worker tells of itself: true, in time, and never in the way of judging."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from audit.settings import Settings
from db.engine import Database
from db.workers import SlotSeen, SlotState, seen
from tests.support.manifests import draw, small_manifest, write_csv
from tests.support.running import changed, finished, ledger, running, submitted
from tests.support.waiting import wait_until
from worker.telling import told_apart


@pytest.fixture
def telling(settings: Settings) -> Settings:
    """A worker with one slot that tells of itself five times a second."""
    return changed(
        settings, devices="cpu", feed_every_s=0.1, tell_every_s=0.2, chunk_pairs=4, lease_s=5, pair_limit_s=4
    )


def slow_manifest(folder: Path, *, pairs: int, pair_s: float) -> Path:
    draw(folder / "red.png")
    rows = [(f"p{n}", "red.png", f"stub:sleep={pair_s} stub:yes {n}") for n in range(pairs)]
    return write_csv(folder / "slow.csv", rows)


def one(database: Database, condition: Callable[[SlotSeen], bool], what: str) -> SlotSeen:
    """The worker's only slot, as soon as it is as wanted."""
    found = wait_until(lambda: [slot for slot in seen(database) if condition(slot)], timeout_s=60, what=what)
    return found[0]


def test_a_slot_is_told_of_from_its_loading_to_its_end(telling: Settings, tmp_path: Path) -> None:
    """`caption-audit workers` is where a person looks when nothing moves."""
    settings = changed(telling, stub_load_s=1.0)
    with ledger(settings) as database, running(settings, tmp_path) as worker:
        loading = one(database, lambda slot: slot.state is SlotState.LOADING, "a slot that loads")
        assert (loading.slot, loading.device, loading.model) == (0, "cpu", settings.model_name)
        assert loading.pid == worker.process.pid
        idle = one(database, lambda slot: slot.state is SlotState.IDLE, "an idle slot")
        assert (idle.canary, idle.precision, idle.model_revision, idle.batch) == ("passed", "none", "1", None)
        assert idle.child_pid == worker.children()[0].pid
        assert (idle.rss_bytes or 0) > 10_000_000
        batch = submitted(settings, slow_manifest(tmp_path, pairs=4, pair_s=0.5))
        judging = one(database, lambda slot: slot.state is SlotState.JUDGING, "a slot that judges")
        assert (judging.batch, judging.chunk) == (batch, 0)
        assert judging.chunk_age_s is not None
        finished(settings, batch, watch=worker)
        one(database, lambda slot: slot.state is SlotState.IDLE and slot.batch is None, "the slot to be idle again")
        assert worker.stop() == 0
        assert seen(database) == []


def test_deaths_and_recycles_are_told_apart(telling: Settings, tmp_path: Path) -> None:
    """A replaced process is planned, a dead one is not: the second number is the one to worry about."""
    settings = changed(telling, max_tasks_per_child=2)
    with ledger(settings) as database, running(settings, tmp_path) as worker:
        one(database, lambda slot: slot.state is SlotState.IDLE, "an idle slot")
        batch = submitted(settings, small_manifest(tmp_path, pairs=16))
        finished(settings, batch, watch=worker)
        one(database, lambda slot: (slot.deaths, slot.recycled) == (0, 2), "two replaced processes")
        wait_until(lambda: len(worker.children()) == 1, timeout_s=30, what="the replacement")
        worker.children()[0].kill()
        one(database, lambda slot: (slot.deaths, slot.recycled) == (1, 2), "one dead process")


def test_a_ledger_that_takes_no_news_still_takes_verdicts(telling: Settings, tmp_path: Path) -> None:
    """The table is for people; losing it must cost no pair."""
    with ledger(telling) as database, running(telling, tmp_path) as worker:
        one(database, lambda slot: slot.state is SlotState.IDLE, "an idle slot")
        database.transact(lambda connection: connection.execute(text("ALTER TABLE workers DROP COLUMN rss_bytes")))
        batch = submitted(telling, small_manifest(tmp_path, pairs=8))
        assert finished(telling, batch, watch=worker).yes >= 1
        assert len(worker.events("worker not told of")) <= 1
        assert worker.events("housekeeping failed") == worker.events("housekeeping waits") == []


def test_two_workers_without_a_name_are_told_apart() -> None:
    """`celery -A worker.app worker` twice on a host: each would write over what the other told."""
    assert told_apart("celery@host-a", 12) == "celery-12@host-a"
    assert told_apart("caption-audit-12@host-a", 12) == "caption-audit-12@host-a"
    assert told_apart("night-shift@host-a", 12) == "night-shift@host-a"
