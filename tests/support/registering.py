"""Registering entries that were written down by hand, and looking at what the ledger holds then."""

from typing import Any

from sqlalchemy import select

from audit.message import Lane
from audit.pair import BatchId, Pair, Row
from audit.verdict import Failure
from db.engine import Database
from db.register import NewBatch, add_slice, find_or_create
from db.register_pairs import Entry
from db.tables import chunks

NEW = NewBatch(
    key="k",
    name="pairs.csv",
    tenant="default",
    lane=Lane.BULK,
    priority=0,
    model="demo",
    policy='{"labels":["No"],"p_no_at_least":null}',
    image_root="/data",
)


def entry(row: int, name: str | None = None, caption: str = "a dog", failure: str | None = None) -> Entry:
    pair = Pair(row=Row(row), id=name or f"p{row}", image="a.png", caption=caption)
    told = None if failure is None else Failure(code="row_invalid", detail=failure)
    return Entry(line=row + 2, pair=pair, failure=told)


def registered(database: Database, entries: list[Entry], *, chunk_pairs: int = 4, slice_rows: int = 8) -> BatchId:
    batch = find_or_create(database, NEW).batch
    for start in range(0, len(entries), slice_rows):
        add_slice(database, batch, entries[start : start + slice_rows], chunk_pairs=chunk_pairs)
    return batch


def rows_of(database: Database, table: Any, *columns: str) -> list[tuple[Any, ...]]:
    with database.reading() as connection:
        found = connection.execute(select(*(table.c[name] for name in columns)).order_by(*table.primary_key))
        return [tuple(row) for row in found]


def chunk_rows(database: Database) -> list[tuple[Any, ...]]:
    return rows_of(database, chunks, "number", "first_row", "last_row", "pairs", "failed", "state")
