"""The view `queue`: what waits, for people, scripts and autoscalers."""

import time

import pytest
from sqlalchemy import text

from audit.message import Lane
from db.engine import Database
from db.queue import Waiting, waiting
from tests.support.ledger_rows import add_batch, add_chunk
from tests.support.waiting import wait_until


def test_each_line_counts_what_a_tenant_has_open(database: Database) -> None:
    """Chunks by state, and pairs without an outcome; done, cancelled and unregistered work is nobody's queue."""
    mine = add_batch(database, tenant="me", opened_at=time.time())
    for number, state in enumerate(("pending", "pending", "sent", "running", "parked", "done", "cancelled")):
        add_chunk(database, mine, number, state, pairs=10, yes=1, no=1, maybe=1, failed=1)
    add_chunk(database, add_batch(database, tenant="you", opened_at=time.time()), 0, "running")
    add_chunk(database, add_batch(database, tenant="me", lane="interactive", opened_at=time.time()), 0, "pending")
    for state in ("registering", "cancelled"):
        add_chunk(database, add_batch(database, state=state), 0, "pending")
    seen = waiting(database)
    assert [(line.model, line.lane, line.tenant) for line in seen] == [
        ("demo", Lane.INTERACTIVE, "me"),
        ("demo", Lane.BULK, "me"),
        ("demo", Lane.BULK, "you"),
    ]
    assert seen[1] == Waiting(
        model="demo",
        lane=Lane.BULK,
        tenant="me",
        pending=2,
        sent=1,
        running=1,
        parked=1,
        pairs_left=30,
        oldest_waiting_s=seen[1].oldest_waiting_s,
    )
    assert (seen[2].pending, seen[2].running, seen[2].pairs_left) == (0, 1, 10)


def test_the_oldest_age_is_that_of_work_which_waits_for_a_worker(database: Database) -> None:
    """An autoscaler that counted running or parked chunks would start machines for ever."""
    now = time.time()
    for tenant, state, age_s in (
        ("a", "pending", 100),
        ("a", "sent", 200),
        ("b", "running", 300),
        ("c", "parked", 400),
    ):
        add_chunk(database, add_batch(database, tenant=tenant, opened_at=now - age_s), 0, state)
    ages = {line.tenant: line.oldest_waiting_s for line in waiting(database)}
    assert ages == {"a": pytest.approx(200, abs=30), "b": None, "c": None}


def test_the_age_is_by_the_databases_clock_and_grows(database: Database) -> None:
    """And it is never negative, whatever clock the producer had."""
    add_chunk(database, add_batch(database, opened_at=time.time()), 0, "pending")
    first = waiting(database)[0].oldest_waiting_s
    assert first is not None
    assert first >= 0
    wait_until(lambda: (waiting(database)[0].oldest_waiting_s or 0) > first, timeout_s=20, what="the age to grow")
    add_chunk(database, add_batch(database, tenant="future", opened_at=time.time() + 9999), 0, "pending")
    assert [line.oldest_waiting_s for line in waiting(database) if line.tenant == "future"] == [0.0]


def test_an_autoscaler_can_ask_in_one_statement(database: Database) -> None:
    """The statement of docs/kubernetes: a number, also when nothing waits."""
    query = text("SELECT coalesce(max(oldest_waiting_s), 0) FROM queue WHERE model = 'demo' AND lane = 'bulk'")
    with database.reading() as connection:
        assert connection.scalar(query) == 0
    add_chunk(database, add_batch(database, opened_at=time.time() - 60), 0, "pending")
    with database.reading() as connection:
        assert connection.scalar(query) == pytest.approx(60, abs=30)


def test_what_is_done_is_not_read(database: Database) -> None:
    """Ten million judged pairs stand in the same table as the ten that wait."""
    if not database.is_sqlite:
        with database.reading() as connection:
            connection.execute(text("SET LOCAL enable_seqscan = off"))  # the tables of a test are too small to tell
            plan = "\n".join(connection.scalars(text("EXPLAIN SELECT * FROM queue")))
        assert "chunks_by_state" in plan
        return
    with database.reading() as connection:
        plan = "\n".join(row.detail for row in connection.execute(text("EXPLAIN QUERY PLAN SELECT * FROM queue")))
    assert "SEARCH c USING INDEX chunks_by_state (state=?)" in plan
