"""What becomes of each row, by property: the plainest statement of the rule against the real thing."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from db.engine import Database, open_database
from db.queries import progress
from db.register import open_batch
from db.schema import ensure_schema
from db.tables import outcomes, pairs
from tests.conftest import fresh_database
from tests.support.registering import entry, registered, rows_of
from tests.support.row_fates import fates
from tests.support.sql_sessions import driver_url

ids = st.sampled_from("abcdef")
rows = st.lists(st.tuples(ids, st.sampled_from(["x", "y"]), st.booleans()), min_size=1, max_size=40)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One ledger for all examples of a property test; each database inserts a slice in a way of its own."""
    with ExitStack() as stack:
        url = f"sqlite:///{tmp_path_factory.mktemp('shared')}/audit.db"
        if request.param == "postgresql":
            admin = request.getfixturevalue("postgres_admin")
            url = driver_url(stack.enter_context(fresh_database(admin, template="template1")))
        opened = open_database(url)
        stack.callback(opened.close)
        ensure_schema(opened)
        yield opened


@settings(max_examples=40)
@given(rows=rows, chunk_pairs=st.integers(1, 5), slice_chunks=st.integers(1, 4))
def test_every_row_ends_as_the_rule_says_however_it_is_sliced(
    shared: Database, rows: list[tuple[str, str, bool]], chunk_pairs: int, slice_chunks: int
) -> None:
    """Duplicates and conflicts must not depend on where a slice happens to end; submitted = failures + remaining."""
    shared.transact(lambda connection: connection.execute(text("DELETE FROM batches")))
    told = fates(rows)
    entries = [entry(n, name, caption, "no" if bad else None) for n, (name, caption, bad) in enumerate(rows)]
    batch = registered(shared, entries, chunk_pairs=chunk_pairs, slice_rows=chunk_pairs * slice_chunks)
    open_batch(shared, batch)
    failed = dict(rows_of(shared, outcomes, "row", "failure_code"))
    kept = [row[0] for row in rows_of(shared, pairs, "row")]
    assert {row: failed.get(row, "good") for row in kept} == told
    seen = progress(shared, batch)
    assert (seen.submitted, seen.failed) == (len(told), len(failed))
    assert seen.submitted == seen.failed + seen.remaining
