"""Claims, leases, deaths and blame: nothing is lost, nothing is judged into two outcomes, no innocent pair is named."""

from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import Connection, select, update
from sqlalchemy.exc import IntegrityError

from audit.holder import this_process
from audit.message import WIRE_VERSION
from audit.pair import BatchId, Row
from db import tables
from db.cancel import cancel_batch
from db.claim import Refusal
from db.death import Cause
from db.engine import Database
from db.lease import Claim, mark, release, renew
from db.queries import progress
from db.record import Recorded, record
from db.sweep import Buried, Rules, sweep, unpark
from tests.support.claims import attempt, batch_of, broken, claimant, dead_process, elsewhere, no, results, take, yes
from tests.support.ledger_rows import a_pair, add_batch, add_chunk, add_pair
from tests.support.waiting import wait_until

FIVE = Rules(max_deaths=5)


def swept(database: Database, rules: Rules = FIVE) -> list[Buried]:
    return list(sweep(database, rules))


def test_a_claimed_chunk_is_refused_to_everybody_else(database: Database) -> None:
    """Three deliveries of one message must not judge it three times."""
    batch = batch_of(database, 4)
    held = take(database, batch)
    assert (held.attempt, held.careful, [pair.row for pair in held.pairs]) == (1, False, [0, 1, 2, 3])
    assert attempt(database, batch, by=claimant(holder=elsewhere())) is Refusal.HELD


def test_what_cannot_be_claimed_says_why(database: Database) -> None:
    """A doorbell may ring for anything; each refusal is harmless and named."""
    assert attempt(database, BatchId(999_999)) is Refusal.UNKNOWN
    assert attempt(database, batch_of(database, 1, state="registering")) is Refusal.NOT_OPEN
    assert attempt(database, batch_of(database, 1, model="another")) is Refusal.OTHER_MODEL
    assert attempt(database, add_batch(database), 7) is Refusal.HELD
    cancelled = batch_of(database, 1)
    cancel_batch(database, cancelled)
    assert attempt(database, cancelled) is Refusal.CANCELLED
    done = batch_of(database, 1)
    held = take(database, done)
    record(database, held, [yes(held.pairs[0])])
    assert attempt(database, done) is Refusal.DONE


def test_recording_ends_the_chunk_and_fills_its_counts(database: Database) -> None:
    """Progress is read from the chunk's counts, so they must be those of its outcomes."""
    batch = batch_of(database, 4)
    held = take(database, batch)
    assert record(database, held, [yes(held.pairs[0])]) is Recorded.KEPT
    assert record(database, held, [no(held.pairs[1]), broken(held.pairs[2]), yes(held.pairs[3])]) is Recorded.DONE
    seen = progress(database, batch)
    assert (seen.state, seen.yes, seen.no, seen.maybe, seen.failed, seen.flagged) == ("done", 2, 1, 0, 1, 1)
    assert results(database, batch) == {0: "Yes", 1: "No", 2: "image_empty", 3: "Yes"}


def test_a_repeated_record_changes_nothing(database: Database) -> None:
    """When COMMIT's answer is lost the worker writes again: that is success, not a second outcome."""
    batch = batch_of(database, 2)
    held = take(database, batch)
    record(database, held, [yes(held.pairs[0])])
    assert record(database, held, [no(held.pairs[0]), yes(held.pairs[1])]) is Recorded.DONE
    assert record(database, held, [no(held.pairs[0]), no(held.pairs[1])]) is Recorded.DONE
    assert results(database, batch) == {0: "Yes", 1: "Yes"}
    assert progress(database, batch).yes == 2


def test_a_late_writer_is_fenced_and_counted(database: Database) -> None:
    """A process that was stopped past its lease must not write into what another has taken over."""
    batch = batch_of(database, 2)
    late = take(database, batch, by=claimant(holder=elsewhere(), lease_s=0.001))
    wait_until(lambda: swept(database), timeout_s=15, what="the lease to end")
    held = take(database, batch)
    assert record(database, late, [no(pair) for pair in late.pairs]) is Recorded.FENCED
    assert not renew(database, late)
    assert release(database, late, charge=False) is None
    assert record(database, held, [yes(pair) for pair in held.pairs]) is Recorded.DONE
    assert results(database, batch) == {0: "Yes", 1: "Yes"}
    with database.reading() as connection:
        assert connection.scalar(select(tables.chunks.c.fenced).where(tables.chunks.c.batch == batch)) == 1


def test_a_dead_process_of_this_host_is_taken_over_at_once(database: Database) -> None:
    """After kill -9 nobody waits for a lease that nobody can renew."""
    batch = batch_of(database, 2)
    take(database, batch, by=claimant(holder=dead_process(), lease_s=3600))
    held = take(database, batch)
    assert (held.attempt, held.careful) == (2, True)


def test_a_claim_whose_commit_answer_was_lost_is_taken_again(database: Database) -> None:
    """The same process asks again for what it holds: it is its own, and nobody died."""
    batch = batch_of(database, 2)
    first = take(database, batch)
    second = attempt(database, batch)
    assert isinstance(second, Claim)
    assert (second.careful, second.pairs) == (False, first.pairs)
    assert record(database, first, [no(pair) for pair in first.pairs]) is Recorded.FENCED
    assert record(database, second, [yes(pair) for pair in second.pairs]) is Recorded.DONE


def test_a_process_of_another_boot_is_not_called_stuck(database: Database) -> None:
    """Its number means somebody else today: nobody may be blamed, or killed, for it."""
    batch = batch_of(database, 1)
    before = replace(this_process(), boot="yesterday")
    take(database, batch, by=claimant(holder=before, lease_s=0.001))
    buried = wait_until(lambda: swept(database), timeout_s=15, what="the lease to end")
    assert [one.cause for one in buried] == [Cause.DIED]


def test_a_living_lease_of_another_host_is_left_alone(database: Database) -> None:
    """What cannot be examined is not dead."""
    batch = batch_of(database, 2)
    take(database, batch, by=claimant(holder=elsewhere(), lease_s=3600))
    assert attempt(database, batch) is Refusal.HELD
    assert swept(database) == []


def test_sweeping_after_an_outage_trusts_no_lease(database: Database) -> None:
    """While the ledger was away nobody could renew: an ended lease says nothing yet."""
    batch = batch_of(database, 2)
    take(database, batch, by=claimant(holder=elsewhere(), lease_s=0.001))
    assert swept(database, Rules(max_deaths=5, trust_leases=False)) == []
    assert len(wait_until(lambda: swept(database), timeout_s=15, what="the lease to end")) == 1


def test_a_release_without_charge_leaves_no_trace(database: Database) -> None:
    """A deploy is nobody's fault: the attempt never was, and what is judged stays judged."""
    batch = batch_of(database, 4)
    held = take(database, batch)
    mark(database, held, row=Row(2), stage="judge")
    record(database, held, [yes(held.pairs[0])])
    assert release(database, held, charge=False)
    again = take(database, batch)
    assert (again.attempt, again.careful, len(again.pairs)) == (1, False, 3)


def test_a_suspect_that_survives_is_cleared(database: Database) -> None:
    """An innocent pair that was at hand when somebody pulled the plug gets its verdict."""
    batch = batch_of(database, 2)
    held = take(database, batch, by=claimant(holder=dead_process()))
    mark(database, held, row=Row(1), stage="judge")
    held = take(database, batch)
    assert record(database, held, [yes(pair) for pair in held.pairs]) is Recorded.DONE
    with database.reading() as connection:
        assert connection.execute(select(tables.suspects)).all() == []


def test_an_outcome_clears_the_marker(database: Database) -> None:
    """A death after an outcome was committed must not be blamed on the pair that has it."""
    batch = batch_of(database, 2)
    held = take(database, batch, by=claimant(holder=dead_process()))
    mark(database, held, row=Row(0), stage="judge")
    record(database, held, [yes(held.pairs[0])])
    assert take(database, batch).suspects == frozenset()


def test_deaths_that_blame_nobody_park_the_chunk(database: Database) -> None:
    """A machine that kills every process must not loop for ever, and must not blame a pair."""
    batch, dead = batch_of(database, 2), dead_process()
    for _ in range(3):
        take(database, batch, by=claimant(holder=dead, max_deaths=3))
        buried = swept(database, Rules(max_deaths=3))
    assert buried[0].parked
    assert attempt(database, batch) is Refusal.PARKED
    assert progress(database, batch).chunks == {"parked": 1}
    assert (progress(database, batch).state, results(database, batch)) == ("parked", {})


def test_parked_chunks_are_revived_by_a_person_alone(database: Database) -> None:
    """When the cause is mended the chunk starts anew, and a cancelled batch stays cancelled."""
    batch, cancelled = batch_of(database, 2), batch_of(database, 2)
    for one in (batch, cancelled):
        release(database, take(database, one, by=claimant(max_deaths=1)), charge=True)
    cancel_batch(database, cancelled)
    assert swept(database) == []
    assert unpark(database) == 1
    assert take(database, batch).careful is False
    assert attempt(database, cancelled) is Refusal.CANCELLED


def test_a_charged_release_counts_towards_parking(database: Database) -> None:
    """A sick engine gives its chunk back; five times is enough."""
    batch = batch_of(database, 1)
    for _ in range(2):
        assert release(database, take(database, batch, by=claimant(max_deaths=2)), charge=True)
    assert attempt(database, batch) is Refusal.PARKED


def test_a_stuck_process_of_this_host_times_its_pair_out(database: Database) -> None:
    """A pair that hangs is told from one that kills: the code says timed_out."""
    batch = batch_of(database, 1)
    for _ in range(2):
        held = take(database, batch, by=claimant(lease_s=0.001))
        assert attempt(database, batch, by=claimant(holder=elsewhere())) is Refusal.HELD  # for sweep to judge
        mark(database, held, row=Row(0), stage="judge")
        wait_until(lambda: swept(database), timeout_s=15, what="the lease to end")
    assert attempt(database, batch) is Refusal.DONE
    assert results(database, batch) == {0: "timed_out"}


def test_cancelling_keeps_what_is_judged_and_revives_nothing(database: Database) -> None:
    """The sum stays: submitted = verdicts + failures + cancelled, whoever still holds a claim."""
    batch = batch_of(database, 8)
    held = take(database, batch)
    record(database, held, [yes(held.pairs[0]), broken(held.pairs[1])])
    assert cancel_batch(database, batch) == 6
    assert cancel_batch(database, batch) == 0
    assert not renew(database, held)
    # What it had judged and not yet recorded when it was told is kept, too.
    assert record(database, held, [yes(held.pairs[2])]) is Recorded.CANCELLED
    assert release(database, held, charge=True) is None
    assert swept(database) == []
    assert attempt(database, batch) is Refusal.CANCELLED
    assert attempt(database, batch, 1) is Refusal.CANCELLED
    seen = progress(database, batch)
    assert (seen.state, seen.submitted, seen.yes, seen.failed, seen.cancelled) == ("cancelled", 8, 2, 1, 5)


def test_a_holder_that_comes_long_after_the_cancel_writes_nothing(database: Database) -> None:
    """Who has seen the sum of a cancelled batch must not find another one the next day."""
    batch = batch_of(database, 2)
    held = take(database, batch, by=claimant(lease_s=0.001))
    cancel_batch(database, batch)
    assert record(database, held, [yes(held.pairs[0])]) is Recorded.FENCED
    seen = progress(database, batch)
    assert (seen.judged, seen.cancelled) == (0, 2)


def test_another_holder_of_a_cancelled_chunk_writes_nothing(database: Database) -> None:
    """The token fences here as anywhere: only the last claim may add what it had judged."""
    batch = batch_of(database, 2)
    early = take(database, batch)
    release(database, early, charge=False)
    take(database, batch, by=claimant(holder=elsewhere()))
    cancel_batch(database, batch)
    assert record(database, early, [yes(early.pairs[0])]) is Recorded.FENCED


def test_a_newer_wire_version_is_left_to_newer_workers(database: Database) -> None:
    """What a newer batch needs this code cannot know: refused, and not changed."""
    batch = batch_of(database, 2, wire_version=WIRE_VERSION + 1)
    assert attempt(database, batch) is Refusal.OTHER_VERSION
    assert progress(database, batch).chunks == {"pending": 1}


def test_the_database_refuses_an_outcome_that_is_both_or_neither(database: Database) -> None:
    """The promise is the schema's, not the code's."""
    batch = batch_of(database, 1)
    held = take(database, batch)
    record(database, held, [yes(held.pairs[0])])
    for values in ({"failure_code": "x", "failure_detail": "y"}, {"label": None}, {"p_no": 0.7}, {"label": "maybe"}):
        changed = update(tables.outcomes).values(**values)
        with pytest.raises(IntegrityError):
            database.transact(partial(Connection.execute, statement=changed))


def test_texts_that_sql_cannot_hold_come_back_as_they_were(database: Database) -> None:
    """A picture whose name is not UTF-8 is still found by its bytes."""
    batch = add_batch(database)
    odd = a_pair(0, image="caf\udce9.png", caption="a\0b")
    add_chunk(database, batch, 0, "pending", 1)
    add_pair(database, batch, odd)
    assert take(database, batch).pairs == (odd,)
