"""The queue's numbers for metrics: both lanes of one model, whether something waits or not."""

import time

import pytest

from audit.message import Lane
from db.engine import Database
from db.queue_load import LaneLoad, queue_load
from tests.support.ledger_rows import add_batch, add_chunk


def test_a_lane_tells_pairs_that_wait_or_are_worked_at_and_parked_chunks_apart(database: Database) -> None:
    """Alarms on a queue must not ring for work that waits for a person, and those for parked work must ring."""
    now = time.time()
    mine = add_batch(database, opened_at=now - 100)
    for number, state in enumerate(("pending", "sent", "running", "parked", "done", "cancelled")):
        add_chunk(database, mine, number, state, pairs=10, yes=1, no=1, maybe=1, failed=1)
    old = add_batch(database, opened_at=now - 900)
    add_chunk(database, old, 0, "running", pairs=10)
    for state in ("registering", "cancelled"):
        add_chunk(database, add_batch(database, state=state), 0, "pending")
    interactive, bulk = queue_load(database, "demo")
    assert interactive == LaneLoad(lane=Lane.INTERACTIVE, pairs=0, oldest_s=None, parked=0)
    assert (bulk.lane, bulk.pairs, bulk.parked) == (Lane.BULK, 28, 1)
    assert bulk.oldest_s == pytest.approx(100, abs=30), "work in hand waits for nobody"
    assert [load.pairs for load in queue_load(database, "another model")] == [0, 0]
