"""Asking the ledger: counts, states, rates and outcomes, from rows put there directly."""

import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import event

from audit.errors import UsageError
from audit.pair import BatchId
from db.engine import Database
from db.queries import Progress, failure_codes, list_batches, outcomes, progress
from tests.support.ledger_rows import BROKEN, NO, YES, a_pair, add_batch, add_chunk, add_pair


def test_counts_are_sums_over_chunks_whatever_their_state(database: Database) -> None:
    """A batch is shown from its chunks alone; a chunk that is half recorded counts for what it has."""
    batch = add_batch(database)
    add_chunk(database, batch, 0, "done", yes=5, no=2, maybe=1, failed=2, flagged=2, claimed_at=100.0, done_at=110.0)
    add_chunk(database, batch, 1, "running", yes=3, no=1, flagged=1, claimed_at=110.0, lease_until=1.0)
    add_chunk(database, batch, 2, "pending")
    seen = progress(database, batch)
    assert (seen.yes, seen.no, seen.maybe, seen.failed, seen.flagged) == (8, 3, 1, 2, 3)
    assert (seen.submitted, seen.cancelled, seen.remaining, seen.state) == (30, 0, 16, "running")
    assert seen.chunks == {"done": 1, "running": 1, "pending": 1}
    assert seen.started_at == 100.0


@pytest.mark.parametrize(
    ("batch_state", "chunk_states", "expected"),
    [
        ("registering", ["pending"], "registering"),
        ("open", ["pending", "sent"], "queued"),
        ("open", ["pending", "done"], "running"),
        ("open", ["parked", "running"], "running"),
        ("open", ["parked", "done"], "parked"),
        ("open", ["done", "done"], "done"),
        ("open", [], "done"),
        ("cancelled", ["done", "cancelled"], "cancelled"),
    ],
)
def test_the_state_is_derived(database: Database, batch_state: str, chunk_states: list[str], expected: str) -> None:
    """No second place keeps the state of a batch, so it cannot disagree with its chunks."""
    batch = add_batch(database, state=batch_state, opened_at=50.0, cancelled_at=150.0)
    for number, state in enumerate(chunk_states):
        done: dict[str, Any] = {"yes": 10, "claimed_at": 100.0, "done_at": 120.0} if state == "done" else {}
        add_chunk(database, batch, number, state, **done)
    seen = progress(database, batch)
    assert seen.state == expected
    assert seen.finished == (expected in ("done", "cancelled", "parked"))


def test_a_cancelled_batch_keeps_what_was_judged(database: Database) -> None:
    """Submitted = verdicts + failures + cancelled, also when a chunk was cancelled half-way."""
    batch = add_batch(database, state="cancelled", cancelled_at=130.0)
    add_chunk(database, batch, 0, "done", yes=10, claimed_at=100.0, done_at=120.0)
    add_chunk(database, batch, 1, "cancelled", yes=3, failed=1, claimed_at=120.0)
    add_chunk(database, batch, 2, "cancelled")
    seen = progress(database, batch)
    assert (seen.judged, seen.cancelled, seen.remaining, seen.submitted) == (14, 16, 0, 30)
    assert seen.finished_at == 130.0
    assert seen.eta_s is None


def test_a_finished_batch_tells_its_rate_over_the_whole_run(database: Database) -> None:
    """The rate in a report must not depend on when somebody asks for it."""
    batch = add_batch(database)
    add_chunk(database, batch, 0, "done", pairs=100, yes=100, claimed_at=1000.0, done_at=1010.0)
    add_chunk(database, batch, 1, "done", pairs=100, no=100, claimed_at=1010.0, done_at=1025.0)
    seen = progress(database, batch)
    assert (seen.rate, seen.eta_s, seen.finished_at) == (8.0, None, 1025.0)


def test_two_busy_slots_are_twice_as_fast_as_one(database: Database) -> None:
    """The ETA counts the slots at work, and is not thrown off by chunks that are half done at the moment."""
    now = time.time()
    batch = add_batch(database)
    for slot in range(2):
        for step in range(3):  # chunks of 20 s, one behind the other, the last one at work for 10 s
            claimed = {"claimed_at": now - 70 + 20 * step, "done_at": now - 50 + 20 * step}
            add_chunk(database, batch, slot * 10 + step, "done", pairs=200, yes=200, **claimed)
        add_chunk(database, batch, slot * 10 + 3, "running", pairs=200, claimed_at=now - 10, lease_until=now + 30)
    add_chunk(database, batch, 99, "pending", pairs=1600)
    add_chunk(database, batch, 100, "parked", pairs=5000)  # nobody works on these
    seen = progress(database, batch)
    assert seen.rate == pytest.approx(20.0, rel=0.05)
    assert seen.eta_s == pytest.approx(100.0, rel=0.05)


def test_a_chunk_whose_lease_ran_out_adds_no_speed(database: Database) -> None:
    """A worker that hangs must not keep promising an end."""
    now = time.time()
    batch = add_batch(database)
    add_chunk(database, batch, 0, "done", yes=10, claimed_at=now - 300, done_at=now - 290)
    add_chunk(database, batch, 1, "running", claimed_at=now - 290, lease_until=now - 200)
    seen = progress(database, batch)
    assert seen.state == "running"
    assert not seen.rate
    assert seen.eta_s is None


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch_state=st.sampled_from(["registering", "open", "cancelled"]),
    chunks=st.lists(
        st.tuples(
            st.sampled_from(["pending", "sent", "running", "done", "cancelled", "parked"]),
            st.lists(st.integers(0, 50), min_size=5, max_size=5),
        ),
        max_size=5,
    ),
)
def test_every_pair_is_in_exactly_one_count(
    database: Database, batch_state: str, chunks: list[tuple[str, list[int]]]
) -> None:
    """Submitted = yes + no + maybe + failed + cancelled + remaining, for every mixture of chunks."""
    batch = add_batch(database, state=batch_state)
    for number, (state, (yes, no, maybe, failed, left)) in enumerate(chunks):
        counts = {"yes": yes, "no": no, "maybe": maybe, "failed": failed}
        add_chunk(database, batch, number, state, pairs=sum(counts.values()) + left, **counts)
    seen = progress(database, batch)
    assert seen.submitted == sum(sum(numbers) for _, numbers in chunks)
    assert seen.submitted == seen.yes + seen.no + seen.maybe + seen.failed + seen.cancelled + seen.remaining
    assert min(seen.cancelled, seen.remaining) >= 0


def test_the_newest_batches_come_first(database: Database) -> None:
    """`status` without a batch shows what somebody has just submitted."""
    ids = [add_batch(database, name=f"batch {number}") for number in range(3)]
    add_chunk(database, ids[1], 0, "pending", pairs=7)
    listed: list[Progress] = list_batches(database, 2)
    assert [(seen.batch, seen.name, seen.submitted) for seen in listed] == [
        (ids[2], "batch 2", 0),
        (ids[1], "batch 1", 7),
    ]


def test_an_unknown_batch_is_a_usage_error(database: Database) -> None:
    """A mistyped number must not look like a batch that is done."""
    for ask in (progress, outcomes):
        with pytest.raises(UsageError, match="there is no batch 404") as caught:
            ask(database, BatchId(404))
        assert caught.value.code == "unknown_batch"


def test_failures_are_counted_by_code(database: Database) -> None:
    """The first question after a run: what went wrong, and how often."""
    batch, other = add_batch(database), add_batch(database)
    add_pair(database, other, a_pair(0), failure_code="url_failed", failure_detail="404")
    for row, code in enumerate(["image_empty", "file_missing", "image_empty"]):
        add_pair(database, batch, a_pair(row), failure_code=code, failure_detail="why")
    add_pair(database, batch, a_pair(3), **YES)
    assert failure_codes(database, batch) == {"image_empty": 2, "file_missing": 1}
    assert list(failure_codes(database, batch)) == ["image_empty", "file_missing"]


def test_outcomes_come_in_manifest_order_page_by_page(database: Database) -> None:
    """Pages join without a gap or a double, also when the last page is exactly full."""
    batch, other = add_batch(database), add_batch(database)
    for row in (4, 0, 6, 2):
        add_pair(database, batch, a_pair(row), **YES)
        add_pair(database, other, a_pair(row), **NO)
    add_pair(database, batch, a_pair(5))  # not judged yet
    for page in (1, 2, 3, 4, 100):
        assert [found.row for found in outcomes(database, batch, page=page)] == [0, 2, 4, 6]


def test_an_outcome_carries_every_column_of_the_views(database: Database) -> None:
    """Exports are made from these rows; a wrong join would put a verdict beside somebody else's caption."""
    batch = add_batch(database)
    add_pair(
        database,
        batch,
        a_pair(3, premise="it is winter", extra={"shop": "7"}),
        **NO,
        flags="animated caption_truncated",
        decode_ms=1.5,
        model_ms=80.0,
        attempt=2,
        cached=True,
    )
    add_pair(database, batch, a_pair(4), **BROKEN)
    verdict, failure = outcomes(database, batch)
    assert (verdict.id, verdict.image, verdict.caption, verdict.premise) == (
        *("id-3", "3.png", "caption 3", "it is winter"),
    )
    assert (verdict.label, verdict.p_yes, verdict.p_no, verdict.p_maybe) == ("No", 0.1, 0.75, 0.15)
    assert (verdict.flagged, verdict.flags) == (True, ("animated", "caption_truncated"))
    assert (verdict.attempt, verdict.cached, verdict.decode_ms, verdict.model_ms) == (2, True, 1.5, 80.0)
    assert verdict.extra == {"shop": "7"}
    assert verdict.judged_at == "2023-11-14T22:13:20.250Z"
    assert (failure.label, failure.p_no, failure.failure_code, failure.failure_detail, failure.flagged) == (
        *(None, None, "image_empty", "zero bytes", False),
    )


def test_texts_that_sql_cannot_hold_come_back_as_they_were(database: Database) -> None:
    """The row that a person searches for is the one in the manifest, byte for byte."""
    batch = add_batch(database)
    odd = a_pair(0, id="nul\0", image="\udcff.png", caption="right\u202eleft", extra={"k\0": "\udc80"})
    add_pair(database, batch, odd, **YES)
    (found,) = outcomes(database, batch)
    assert (found.id, found.image, found.caption, found.extra) == (odd.id, odd.image, odd.caption, odd.extra)


def test_the_surest_mismatch_comes_first_when_asked(database: Database) -> None:
    """Somebody who looks at ten pairs should look at the ten that are most likely wrong; ties keep their order."""
    batch = add_batch(database)
    for row, p_no in enumerate([0.6, 0.9, 0.75, 0.9, 0.6]):
        scores = {"label": "No", "p_no": p_no, "p_yes": 1 - p_no, "p_maybe": 0.0, "flagged": row != 2}
        add_pair(database, batch, a_pair(row), **scores)
    add_pair(database, batch, a_pair(9), **BROKEN)
    for page in (1, 2, 3, 100):
        flagged = outcomes(database, batch, flagged_only=True, order="p_no", page=page)
        assert [found.row for found in flagged] == [1, 3, 0, 4]
        assert [found.row for found in outcomes(database, batch, order="p_no", page=page)] == [1, 3, 2, 0, 4]


def test_no_transaction_stays_open_while_the_reader_thinks(database: Database) -> None:
    """A slow reader of an export must neither hold up SQLite's checkpoints nor be cut off by PostgreSQL."""
    open_transactions = 0

    def count(change: int) -> Any:
        def listener(*_: Any) -> None:
            nonlocal open_transactions
            open_transactions += change

        return listener

    batch = add_batch(database)
    for row in range(3):
        add_pair(database, batch, a_pair(row), **YES)
    event.listen(database.engine, "begin", count(1))
    for ending in ("commit", "rollback"):
        event.listen(database.engine, ending, count(-1))
    for found in outcomes(database, batch, page=2):
        assert open_transactions == 0, found.row
