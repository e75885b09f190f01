"""Pairs as rows: whatever a manifest holds comes back as it was."""

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select

from audit.pair import Pair, Row
from db.codec import escape, pair_to_row, row_to_pair, storable
from db.engine import Database
from db.tables import pairs as pairs_table
from tests.support.ledger_rows import add_batch

any_text = st.text(max_size=20) | st.sampled_from(["\0", "a\0b", "\ud800", "caf\udce9", "\\x00", "é😀", '"', "\u2028"])
any_pair = st.builds(
    Pair,
    row=st.integers(0, 2**40).map(Row),
    id=any_text,
    image=any_text,
    caption=any_text,
    premise=st.none() | any_text,
    extra=st.none() | st.dictionaries(any_text, any_text, min_size=1, max_size=3),
)


@given(pair=any_pair)
def test_every_pair_comes_back_as_it_was(pair: Pair) -> None:
    """NUL and broken encodings included: a file's name must still open it, and a person must see what was there."""
    assert row_to_pair(pair_to_row(pair)) == pair


@given(pair=any_pair)
def test_every_column_can_be_stored_by_both_databases(pair: Pair) -> None:
    """PostgreSQL refuses NUL and lone surrogates, and would refuse the whole slice with them."""
    assert all(storable(text) for text in pair_to_row(pair).values() if isinstance(text, str))


@given(text=any_text)
def test_escaping_leaves_good_text_alone(text: str) -> None:
    """People read these columns: only what cannot be stored may look different."""
    assert (escape(text) == text) == storable(text)


def test_hostile_texts_survive_the_real_databases(database: Database) -> None:
    """The rule above holds for the drivers and the servers too."""
    texts = ["\0", "\ud800", "\udcff", "é😀\u2028", "\\x00", "'; DROP TABLE pairs; --", "\x01\x7f\x85", "\r\n\t\\."]
    kept = [Pair(row=Row(n), id=f"{n}", image=t, caption=t, premise=t, extra={t: t}) for n, t in enumerate(texts)]
    batch = add_batch(database)
    rows = [{"batch": batch, **pair_to_row(pair)} for pair in kept]
    database.transact(lambda connection: connection.execute(insert(pairs_table), rows))
    with database.reading() as connection:
        found = connection.execute(select(pairs_table).order_by(pairs_table.c.row)).mappings().all()
    assert [row_to_pair(dict(row)) for row in found] == kept
