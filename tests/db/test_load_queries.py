"""The load that the ledger has seen: every pair on its day, and no more work than was done."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, insert

from audit.message import Lane
from db.cancel import cancel_batch
from db.engine import Database
from db.lease import release
from db.load_queries import load
from db.record import record
from db.register import add_slice, find_or_create
from db.tables import workers
from tests.support.claims import broken, take, yes
from tests.support.histories import DAY_S, judged, midnight, move, submitted
from tests.support.registering import NEW, entry


def test_an_empty_ledger_has_no_days(database: Database) -> None:
    """Nothing is made up where nothing was."""
    seen = load(database, days=400, work_days=28)
    assert (list(seen.days), list(seen.work), seen.slots_a_worker, seen.waiting) == ([], [], None, 0)


def test_pairs_count_on_the_day_they_came_in_their_lane_and_on_the_day_they_were_judged(database: Database) -> None:
    """The forecast stands on these sums; a day without a batch is a day with 0, not a gap."""
    old = submitted(database, 10, at=midnight(days_ago=4))
    judged(database, old, at=midnight(days_ago=3) + 1)
    last_moment = submitted(database, 3, at=midnight(days_ago=1) - 0.25, lane=Lane.INTERACTIVE)
    judged(database, last_moment, at=midnight() - 0.25, result=broken)
    submitted(database, 5, at=midnight(days_ago=4) + 80_000, lane=Lane.INTERACTIVE)
    submitted(database, 7, at=midnight() + 1)  # today is not over
    seen = load(database, days=400, work_days=28)
    today = datetime.fromtimestamp(midnight(), UTC).date()
    assert seen.today == today
    assert [(today - day.day, dict(day.submitted), day.judged) for day in seen.days] == [
        (timedelta(days=4), {"bulk": 10, "interactive": 5}, 0),
        (timedelta(days=3), {}, 10),
        (timedelta(days=2), {"interactive": 3}, 0),
        (timedelta(days=1), {}, 3),
    ]
    assert seen.waiting == 12


def test_only_the_days_that_were_asked_for_are_read(database: Database) -> None:
    """Load of years ago says little of next month."""
    submitted(database, 4, at=midnight(days_ago=30))
    submitted(database, 6, at=midnight(days_ago=5))
    assert [dict(day.submitted) for day in load(database, days=10, work_days=28).days] == [{"bulk": 6}, *[{}] * 4]


def test_what_was_cancelled_or_never_opened_is_no_load(database: Database) -> None:
    """Ten million pairs that were submitted by mistake must not order forty workers."""
    cancelled = submitted(database, 8, at=midnight(days_ago=2))
    held = take(database, cancelled)
    record(database, held, [yes(pair) for pair in held.pairs])
    cancel_batch(database, cancelled)
    half = find_or_create(database, NEW).batch
    add_slice(database, half, [entry(row) for row in range(5)], chunk_pairs=4)
    move(database, "batches SET created_at = :at WHERE id = :batch", batch=half, at=midnight(days_ago=3))
    seen = load(database, days=400, work_days=28)
    assert [dict(day.submitted) for day in seen.days] == [{"bulk": 4}, {}]
    assert seen.waiting == 0


def test_work_is_what_whole_chunks_took_in_their_first_attempt(database: Database) -> None:
    """A chunk that was given back tells the seconds of its last part only: four pairs in the time of one."""
    batch = submitted(database, 8, at=midnight(days_ago=1))
    held = take(database, batch)
    record(database, held, [yes(held.pairs[0])])
    release(database, held, charge=True)
    judged(database, batch, at=midnight() - 100, took_s=2.0)
    old = submitted(database, 4, at=midnight(days_ago=50))
    judged(database, old, at=midnight(days_ago=40), took_s=1000.0)
    (work,) = load(database, days=400, work_days=28).work
    assert (work.model, work.chunks, work.pairs) == ("demo", 1, 4)
    assert work.slot_s == pytest.approx(2.0, abs=0.001)


def test_bad_rows_that_nobody_claimed_are_no_work(database: Database) -> None:
    """They were done when they were registered; at no seconds a pair any rate could be reached."""
    submitted(database, [entry(row, failure="no caption") for row in range(4)], at=midnight(days_ago=1))
    seen = load(database, days=400, work_days=28)
    assert list(seen.work) == []
    assert [dict(day.submitted) for day in seen.days] == [{"bulk": 4}]


def test_slots_are_counted_a_worker(database: Database) -> None:
    """A worker's rate is that of all its slots."""
    row = {"pid": 1, "boot": "b", "started": 1, "started_at": 1.0, "device": "cpu", "model": "demo", "state": "idle"}
    places = [("h1", "a", 0), ("h1", "a", 1), ("h2", "a", 0), ("h3", "gone", 0), ("h3", "gone", 1)]

    def work(connection: Connection) -> None:
        for host, worker, slot in places:
            seen_at = midnight(days_ago=60) if worker == "gone" else midnight() - DAY_S
            values = {**row, "host": host, "worker": worker, "slot": slot, "seen_at": seen_at}
            connection.execute(insert(workers).values(**values))

    database.transact(work)
    assert load(database, days=400, work_days=28).slots_a_worker == 1.5
