"""Registering: slices, duplicates, conflicts, and going on where somebody else stopped."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from audit.errors import LedgerUnavailable, UsageError
from audit.pair import Pair, Row
from db.cancel import cancel_batch
from db.codec import row_to_pair
from db.engine import Database, open_database
from db.queries import progress
from db.register import BatchGone, Totals, add_slice, discard, find_or_create, open_batch, totals
from db.register_pairs import Entry
from db.tables import BatchState, batches, chunks, outcomes, pairs
from tests.support.registering import NEW, chunk_rows, entry, registered, rows_of


def test_a_batch_becomes_claimable_with_its_last_commit(database: Database) -> None:
    """A worker must never see half a batch."""
    batch = registered(database, [entry(row) for row in range(10)])
    assert progress(database, batch).state == "registering"
    assert open_batch(database, batch) is True
    assert progress(database, batch).state == "queued"
    assert open_batch(database, batch) is False
    assert chunk_rows(database) == [
        (0, 0, 3, 4, 0, "pending"),
        (1, 4, 7, 4, 0, "pending"),
        (2, 8, 9, 2, 0, "pending"),
    ]
    assert totals(database, batch) == Totals(pairs=10, chunks=3, failed=0)
    ((row,),) = [rows_of(database, batches, "opened_at", "created_at")]
    assert row[0] >= row[1] > 1e9


def test_the_same_key_finds_the_same_batch(database: Database) -> None:
    """Submitting twice must not judge twice; the first name stays."""
    first = find_or_create(database, NEW)
    assert (first.state, first.next_row) == (BatchState.REGISTERING, 0)
    again = find_or_create(database, replace(NEW, name="copy.csv"))
    other = find_or_create(database, replace(NEW, key="other"))
    assert again == first
    assert other.batch != first.batch
    assert rows_of(database, batches, "name") == [("pairs.csv",), ("pairs.csv",)]


def test_a_bad_row_is_a_failure_from_the_start(database: Database) -> None:
    """It is written with its pair, so that no moment exists in which it has neither verdict nor failure."""
    entries = [entry(0), entry(1, failure="line 3: no")] + [entry(row, failure="line N: no") for row in (2, 3)]
    batch = registered(database, entries, chunk_pairs=2)
    assert chunk_rows(database) == [(0, 0, 1, 2, 1, "pending"), (1, 2, 3, 2, 2, "done")]
    columns = ("row", "failure_code", "failure_detail", "worker", "engine", "attempt", "flagged", "label")
    assert rows_of(database, outcomes, *columns)[0] == (
        *(1, "row_invalid", "line 3: no"),
        *("producer", "none", 0, False, None),
    )
    assert totals(database, batch) == Totals(pairs=4, chunks=2, failed=3)
    open_batch(database, batch)
    seen = progress(database, batch)
    assert (seen.submitted, seen.failed, seen.remaining) == (4, 3, 1)


def test_a_repeated_pair_is_one_pair_within_and_across_slices(database: Database) -> None:
    """The same id with the same content is one pair, wherever in ten million rows it comes again."""
    entries = [entry(0), entry(1, "p0"), entry(2)] + [entry(row, "p0") for row in range(3, 12)]
    batch = registered(database, entries)
    assert chunk_rows(database) == [
        (0, 0, 3, 2, 0, "pending"),
        (1, 4, 7, 0, 0, "done"),
        (2, 8, 11, 0, 0, "done"),
    ]
    assert rows_of(database, pairs, "row", "id", "conflict") == [(0, "p0", 0), (2, "p2", 0)]
    assert totals(database, batch).pairs == 2


def test_an_id_with_other_content_is_a_conflict_and_the_first_one_keeps_it(database: Database) -> None:
    """Two captions under one id: one of them would get the other's verdict in the user's table."""
    entries = [entry(0), entry(1, "p0", "a cat"), entry(2, "p0"), *(entry(row) for row in range(3, 8))]
    entries += [entry(8, "p0", "a cat"), entry(9)]
    registered(database, entries)
    conflicting = "the id is that of pair 1, which has other content"
    assert rows_of(database, outcomes, "row", "failure_code", "failure_detail") == [
        (1, "id_conflict", f"line 3: {conflicting}"),
        (8, "id_conflict", f"line 10: {conflicting}"),
    ]
    assert [row for row in rows_of(database, pairs, "row", "id", "conflict") if row[1] == "p0"] == [
        (0, "p0", 0),
        (1, "p0", 3),
        (8, "p0", 10),
    ]
    assert chunk_rows(database) == [
        (0, 0, 3, 3, 1, "pending"),
        (1, 4, 7, 4, 0, "pending"),
        (2, 8, 9, 2, 1, "pending"),
    ]


def test_a_bad_row_takes_no_id_away_from_a_good_one(database: Database) -> None:
    """The id of a ragged row is a guess; its neighbours are judged as if it were not there."""
    entries = [
        entry(0, "x", failure="line 2: no"),
        entry(1, "x"),
        entry(2, "x", failure="line 4: no"),
        entry(3, "line-2"),
    ]
    registered(database, entries)
    assert [row[0] for row in rows_of(database, outcomes, "row")] == [0, 2]
    assert rows_of(database, pairs, "row", "conflict") == [(0, 2), (1, 0), (2, 4), (3, 0)]


def test_registering_goes_on_where_somebody_stopped(database: Database) -> None:
    """A producer that died, or a second one, must add nothing twice and leave nothing out."""
    entries = [entry(row) for row in range(20)]
    batch = find_or_create(database, NEW).batch
    assert add_slice(database, batch, entries[:8], chunk_pairs=4) == 8
    assert find_or_create(database, NEW).next_row == 8
    assert add_slice(database, batch, entries[:8], chunk_pairs=4) == 8
    assert add_slice(database, batch, entries[:12], chunk_pairs=4) == 12
    assert add_slice(database, batch, entries[4:], chunk_pairs=4) == 20
    assert [row[0] for row in rows_of(database, pairs, "row")] == list(range(20))
    assert [row[0] for row in rows_of(database, chunks, "number")] == list(range(5))
    open_batch(database, batch)
    assert add_slice(database, batch, entries[16:], chunk_pairs=4) == 20


def test_a_gap_is_refused(database: Database) -> None:
    """A slice that does not follow the last one is a bug of ours, and must not lose rows silently."""
    batch = find_or_create(database, NEW).batch
    with pytest.raises(RuntimeError, match="never registered"):
        add_slice(database, batch, [entry(8)], chunk_pairs=4)


def test_many_processes_register_one_file_together(ledger_url: str, database: Database) -> None:
    """Two people start the same nightly job: one batch, each row once."""
    entries = [entry(row, f"p{row % 150}") for row in range(200)]

    def one(size: int) -> bool:
        own = open_database(ledger_url.replace("postgresql://", "postgresql+psycopg://"))
        try:
            batch, next_row = find_or_create(own, NEW).batch, 0
            while next_row < len(entries):
                next_row = add_slice(own, batch, entries[next_row : next_row + size], chunk_pairs=4)
            return open_batch(own, batch)
        finally:
            own.close()

    with ThreadPoolExecutor(3) as pool:
        opened = list(pool.map(one, [8, 12, 8]))
    assert sorted(opened) == [False, False, True]
    assert [row[0] for row in rows_of(database, pairs, "row")] == list(range(150))
    assert [row[0] for row in rows_of(database, chunks, "number")] == list(range(50))


def test_a_refused_batch_leaves_nothing_and_an_open_one_stays(database: Database) -> None:
    """Discarding is for batches that nobody could claim."""
    batch = registered(database, [entry(0), entry(1, failure="no")])
    discard(database, batch)
    assert [rows_of(database, table, "batch") for table in (pairs, chunks, outcomes)] == [[], [], []]
    with pytest.raises(BatchGone):
        add_slice(database, batch, [entry(0)], chunk_pairs=4)
    opened = registered(database, [entry(0)])
    open_batch(database, opened)
    discard(database, opened)
    assert totals(database, opened).pairs == 1


def test_a_batch_that_was_cancelled_meanwhile_gets_no_more_rows(database: Database) -> None:
    """Somebody noticed the wrong file before it was in."""
    batch = registered(database, [entry(row) for row in range(4)])
    cancel_batch(database, batch)
    with pytest.raises(UsageError, match="was cancelled"):
        add_slice(database, batch, [entry(4)], chunk_pairs=4)
    with pytest.raises(UsageError, match="was cancelled"):
        open_batch(database, batch)


def test_a_ledger_that_does_not_answer_is_said_so(tmp_path: Any) -> None:
    """One line and exit status 69, not a driver's traceback."""
    away = open_database("postgresql+psycopg://audit:secret@127.0.0.1:1/ledger")
    with pytest.raises(LedgerUnavailable) as caught:
        find_or_create(away, NEW)
    assert caught.value.exit_status == 69
    assert "secret" not in f"{caught.value}"
    assert "\n" not in caught.value.detail


def test_texts_of_every_kind_are_copied_as_they_are(database: Database) -> None:
    """COPY has an escape syntax of its own."""
    texts = ["\\.", "\\N", "a\tb", "a\nb", "a\rb", "", "NULL", "é😀", "\0", "\udcff", '"', "\\x00"]
    entries = [
        Entry(line=n + 2, pair=Pair(row=Row(n), id=f"{n}", image="a", caption=t, premise=t or None, extra={t: t}))
        for n, t in enumerate(texts)
    ]
    registered(database, entries, slice_rows=100, chunk_pairs=100)
    with database.reading() as connection:
        found = connection.execute(select(pairs).order_by(pairs.c.row)).mappings().all()
    assert [row_to_pair(dict(row)) for row in found] == [entry.pair for entry in entries]
