"""Retrying failures: replaced in one transaction, kept in a history, verdicts untouched."""

from dataclasses import replace

import pytest
from sqlalchemy import select, update

from audit.errors import UsageError
from audit.pair import BatchId, Row
from audit.verdict import Failure, Outcome
from db import tables
from db.cancel import cancel_batch
from db.claim import Refusal
from db.engine import Database
from db.lease import Claim, mark, release
from db.queries import progress
from db.record import Recorded, record
from db.retry import retry_failures
from db.sweep import Rules, sweep
from tests.support.claims import attempt, batch_of, broken, claimant, dead_process, no, results, take, yes

FIVE = Rules(max_deaths=5)


def judged(database: Database) -> BatchId:
    """Two chunks of four: Yes, image_empty, slow, Yes; and four times Yes."""
    batch = batch_of(database, 8)
    first, second = take(database, batch), take(database, batch, 1)
    slow = Outcome(row=first.pairs[2].row, result=Failure(code="slow", detail="took too long"))
    record(database, first, [yes(first.pairs[0]), broken(first.pairs[1]), slow, yes(first.pairs[3])])
    assert record(database, second, [yes(pair) for pair in second.pairs]) is Recorded.DONE
    return batch


def history(database: Database, batch: BatchId) -> list[tuple[int, str]]:
    with database.reading() as connection:
        old = tables.failure_history.c
        found = connection.execute(select(old.row, old.failure_code).where(old.batch == batch).order_by(old.row))
        return [(row.row, row.failure_code) for row in found]


def asked(database: Database, batch: BatchId) -> list[int]:
    with database.reading() as connection:
        return list(connection.scalars(select(tables.retries.c.row).where(tables.retries.c.batch == batch)))


def test_a_failure_stands_until_its_new_outcome_replaces_it(database: Database) -> None:
    """At no moment has the pair no outcome, and at none two; the old one can be read for ever."""
    batch = judged(database)
    assert retry_failures(database, batch) == 2
    assert retry_failures(database, batch) == 0
    waiting = progress(database, batch)
    assert (waiting.state, waiting.failed, waiting.remaining) == ("running", 2, 0)
    held = take(database, batch)
    assert ([pair.row for pair in held.pairs], held.attempt, held.careful) == ([1, 2], 1, False)
    assert record(database, held, [no(held.pairs[0])]) is Recorded.KEPT
    assert results(database, batch) == {0: "Yes", 1: "No", 2: "slow", 3: "Yes", **dict.fromkeys(range(4, 8), "Yes")}
    assert record(database, held, [broken(held.pairs[1])]) is Recorded.DONE
    seen = progress(database, batch)
    assert (seen.state, seen.yes, seen.no, seen.failed, seen.submitted) == ("done", 6, 1, 1, 8)
    assert history(database, batch) == [(1, "image_empty"), (2, "slow")]
    assert attempt(database, batch, 1) is Refusal.DONE


def test_recording_a_retry_twice_changes_nothing(database: Database) -> None:
    """A COMMIT whose answer was lost is repeated: the new outcome must not go into the history."""
    batch = judged(database)
    retry_failures(database, batch)
    held = take(database, batch)
    new = [no(held.pairs[0]), broken(held.pairs[1])]
    assert [record(database, held, new), record(database, held, new)] == [Recorded.DONE, Recorded.DONE]
    assert history(database, batch) == [(1, "image_empty"), (2, "slow")]


def test_only_failures_with_the_code_are_retried(database: Database) -> None:
    """Pictures that were put in their place need not bring back pairs that hang."""
    batch = judged(database)
    assert retry_failures(database, batch, code="slow") == 1
    assert [pair.row for pair in take(database, batch).pairs] == [2]
    assert retry_failures(database, batch, code="no_such_code") == 0


def test_a_retry_that_dies_again_starts_its_attempts_anew(database: Database) -> None:
    """Deaths of before the cure do not count against it; a pair that still kills is named again."""
    batch = judged(database)
    with_deaths = update(tables.chunks).values(deaths=4, attempts=9)
    database.transact(lambda connection: connection.execute(with_deaths))
    retry_failures(database, batch)
    for deaths in range(4):
        held = take(database, batch, by=claimant(holder=dead_process()))
        assert held.careful is (deaths > 0)
        if deaths:
            mark(database, held, row=Row(2), stage="judge")
        assert [one.parked for one in sweep(database, FIVE)] == [False]
    held = take(database, batch)
    assert [pair.row for pair in held.pairs] == [1]
    assert record(database, held, [yes(held.pairs[0])]) is Recorded.DONE
    assert results(database, batch)[2] == "worker_died"
    assert history(database, batch) == [(1, "image_empty"), (2, "slow")]


def test_asking_again_forgets_no_death_of_the_retry(database: Database) -> None:
    """Whoever asks every minute must not save a pair that kills. Safeguard: suspects stay."""
    batch = judged(database)
    assert retry_failures(database, batch) == 2
    mark(database, take(database, batch, by=claimant(holder=dead_process())), row=Row(2), stage="judge")
    assert len(list(sweep(database, FIVE))) == 1
    assert retry_failures(database, batch) == 0
    assert take(database, batch).suspects == {2}


def test_a_retry_that_is_asked_for_during_the_work_waits_for_its_end(database: Database) -> None:
    """Whoever judges the rest of the chunk does not know of it; it is judged next, and nobody is charged."""
    batch = batch_of(database, 2)
    held = take(database, batch)
    record(database, held, [broken(held.pairs[0])])
    assert retry_failures(database, batch) == 1
    assert record(database, held, [yes(held.pairs[1])]) is Recorded.DONE
    again = take(database, batch)
    assert ([pair.row for pair in again.pairs], again.attempt, again.careful) == ([0], 1, False)
    assert record(database, again, [yes(again.pairs[0])]) is Recorded.DONE
    assert results(database, batch) == {0: "Yes", 1: "Yes"}


def test_a_cancel_ends_a_retry_and_keeps_the_failures(database: Database) -> None:
    """Nothing is lost by changing one's mind: every pair has the outcome that it had."""
    batch = judged(database)
    before = results(database, batch)
    retry_failures(database, batch)
    held = take(database, batch)
    assert cancel_batch(database, batch) == 0
    assert record(database, held, [yes(held.pairs[0])]) is Recorded.FENCED
    assert results(database, batch) == before
    assert progress(database, batch).state == "done"
    assert asked(database, batch) == []


def test_a_retry_is_given_back_and_goes_on_elsewhere(database: Database) -> None:
    """A worker that stops in the middle of a retry loses neither the old outcome nor the wish."""
    batch = judged(database)
    retry_failures(database, batch)
    held = take(database, batch)
    record(database, held, [no(held.pairs[0])])
    assert release(database, held, charge=False)
    rest = take(database, batch)
    assert [pair.row for pair in rest.pairs] == [2]
    assert record(database, rest, [no(rest.pairs[0])]) is Recorded.DONE


def test_a_chunk_that_an_older_worker_finished_is_revived(database: Database) -> None:
    """Code of the last version sees nothing to judge in a retried chunk, and calls it done."""
    batch = judged(database)
    retry_failures(database, batch)
    done = update(tables.chunks).where(tables.chunks.c.batch == batch).values(state="done")
    database.transact(lambda connection: connection.execute(done))
    assert list(sweep(database, FIVE)) == []
    assert progress(database, batch).chunks == {"done": 1, "pending": 1}
    assert isinstance(attempt(database, batch), Claim)


def test_what_was_refused_at_submission_is_not_retried(database: Database) -> None:
    """Such a row was never judged: what is wrong with it stands in the manifest."""
    batch = judged(database)
    never = update(tables.outcomes).where(tables.outcomes.c.row == 1).values(attempt=0)
    database.transact(lambda connection: connection.execute(never))
    assert retry_failures(database, batch) == 1


@pytest.mark.parametrize(("state", "code"), [("cancelled", "batch_cancelled"), ("registering", "batch_unfinished")])
def test_a_batch_that_cannot_be_retried_says_why(database: Database, state: str, code: str) -> None:
    """Nothing revives a cancelled batch."""
    batch = judged(database)
    changed = update(tables.batches).where(tables.batches.c.id == batch).values(state=state)
    database.transact(lambda connection: connection.execute(changed))
    with pytest.raises(UsageError, match=code):
        retry_failures(database, batch)


def test_an_unknown_batch_is_refused(database: Database) -> None:
    """Exit 2, and not a quiet zero."""
    with pytest.raises(UsageError, match="unknown_batch"):
        retry_failures(database, BatchId(99_999))


def test_someone_who_lost_the_claim_replaces_nothing(database: Database) -> None:
    """The token fences a retry as it fences the first run."""
    batch = judged(database)
    retry_failures(database, batch)
    late = take(database, batch)
    release(database, late, charge=False)
    take(database, batch, by=claimant(holder=replace(claimant().holder, host="another")))
    assert record(database, late, [yes(late.pairs[0])]) is Recorded.FENCED
    assert history(database, batch) == []
