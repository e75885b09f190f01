"""Outcomes by when they were judged: every one of the month, none of another, whatever became of its chunk since."""

from datetime import UTC, datetime

from audit.pair import BatchId
from db.archive_queries import facts_between, outcomes_between, spans_between
from db.cancel import cancel_batch
from db.engine import Database
from db.record import record
from db.retry import retry_failures
from db.tables import chunks
from tests.support.claims import broken, take, yes
from tests.support.histories import judged, move, submitted
from tests.support.registering import entry, rows_of

SEPTEMBER, OCTOBER, NOVEMBER = (datetime(2025, month, 1, tzinfo=UTC).timestamp() for month in (9, 10, 11))
HOUR = 3600.0


def of_october(database: Database, *, page: int = 1000) -> list[tuple[BatchId, int]]:
    spans = spans_between(database, OCTOBER, NOVEMBER)
    found = [
        (span.batch, row.row)
        for span in spans
        for row in outcomes_between(database, span, OCTOBER, NOVEMBER, page=page)
    ]
    facts = [fact for span in spans for fact in facts_between(database, span, OCTOBER, NOVEMBER, page=page)]
    assert len(facts) == len(found)
    return found


def test_a_month_has_its_first_moment_and_not_the_next_month_s(database: Database) -> None:
    """Each outcome is in one month's archive: not in two, and not in none."""
    times = [OCTOBER - 0.001, OCTOBER, OCTOBER + HOUR, NOVEMBER - 0.001, NOVEMBER]
    batches = []
    for at in times:
        batches.append(submitted(database, 2, at=SEPTEMBER))
        judged(database, batches[-1], at=at)
    assert of_october(database) == [(batch, row) for batch in batches[1:4] for row in (0, 1)]


def test_pages_neither_lose_nor_double(database: Database) -> None:
    """A page ends in the middle of a chunk, of a span, and exactly at an end."""
    batch = submitted(database, 12, at=OCTOBER)
    judged(database, batch, at=OCTOBER + HOUR)
    for page in (1, 2, 3, 4, 5, 11, 12, 13):
        assert of_october(database, page=page) == [(batch, row) for row in range(12)]


def test_neighbouring_chunks_are_one_span(database: Database) -> None:
    """A statement a chunk would be ten thousand statements for ten million pairs."""
    batch = submitted(database, 12, at=OCTOBER)
    judged(database, batch, at=OCTOBER + HOUR)
    (span,) = spans_between(database, OCTOBER, NOVEMBER)
    assert (span.batch, span.name, span.first_row, span.last_row) == (batch, "pairs.csv", 0, 11)
    assert spans_between(database, SEPTEMBER, OCTOBER - 1) == []


def test_what_is_over_since_long_is_not_looked_at(database: Database) -> None:
    """Or each month's archive would read the whole ledger again."""
    judged(database, submitted(database, 4, at=SEPTEMBER), at=SEPTEMBER + HOUR)
    submitted(database, 4, at=OCTOBER)  # nothing of it is judged
    assert spans_between(database, OCTOBER, NOVEMBER) == []


def test_failures_of_a_chunk_that_was_begun_before_and_ends_later_are_found(database: Database) -> None:
    """A chunk of a slow model spans the end of a month; its outcomes belong to both."""
    batch = submitted(database, 4, at=SEPTEMBER)
    held = take(database, batch)
    record(database, held, [broken(held.pairs[0])])
    move(database, "outcomes SET judged_at = :at WHERE batch = :batch", batch=batch, at=NOVEMBER - 1)
    assert of_october(database) == [(batch, 0)]
    record(database, held, [yes(pair) for pair in held.pairs[1:]])
    move(database, "chunks SET done_at = :at WHERE batch = :batch", batch=batch, at=NOVEMBER + 1)
    assert of_october(database) == [(batch, 0)]


def test_a_retry_that_is_half_done_hides_nothing(database: Database) -> None:
    """Its chunk still tells the time at which it was done for the first time, months ago."""
    batch = submitted(database, 4, at=SEPTEMBER)
    judged(database, batch, at=SEPTEMBER + HOUR, result=broken)
    retry_failures(database, batch, code=None)
    held = take(database, batch)
    record(database, held, [yes(pair) for pair in held.pairs[:2]])
    assert rows_of(database, chunks, "state", "done_at") == [("running", SEPTEMBER + HOUR)]
    fresh = "outcomes SET judged_at = :at WHERE batch = :batch AND label IS NOT NULL"
    move(database, fresh, batch=batch, at=OCTOBER + HOUR)
    assert of_october(database) == [(batch, 0), (batch, 1)]


def test_what_was_judged_before_a_batch_was_cancelled_is_found(database: Database) -> None:
    """Cancelling keeps what is judged, and a cancelled chunk was never done."""
    batch = submitted(database, 8, at=OCTOBER)
    held = take(database, batch)
    record(database, held, [yes(held.pairs[0])])
    cancel_batch(database, batch)
    move(database, "outcomes SET judged_at = :at WHERE batch = :batch", batch=batch, at=OCTOBER + HOUR)
    assert of_october(database) == [(batch, 0)]


def test_rows_that_were_refused_at_registration_are_outcomes_of_that_month(database: Database) -> None:
    """They never had a claim, a worker or a model."""
    entries = [entry(0, failure="no caption"), entry(1), entry(2, failure="no image")]
    batch = submitted(database, entries, at=OCTOBER + HOUR)
    assert of_october(database) == [(batch, 0), (batch, 2)]
