"""Writing a slice of pairs as fast as each database can, and telling what became of ids that were used before."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from audit.pair import BatchId, Pair
from audit.verdict import Failure
from db.codec import pair_to_row, row_to_pair
from db.tables import pairs

COLUMNS = ("batch", "row", "id", "conflict", "image", "caption", "premise", "extra", "raw")
NAMES = ", ".join(COLUMNS)
IDS_AT_ONCE = 500
"""Ids in one look-up: SQLite's older limit is 999 variables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of a manifest: its pair, the line it starts on, and why it cannot be judged, if so.

    A pair with a failure is as complete as the row allowed, and never takes its id away from a good one.
    """

    line: int
    pair: Pair
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inserted:
    """What a slice turned out to hold: failures by row, and the rows that only repeat an earlier pair."""

    failures: Mapping[int, Failure]
    repeated: frozenset[int]


def pair_rows(batch: BatchId, entries: Sequence[Entry]) -> list[tuple[Any, ...]]:
    """The entries as rows of `pairs`, in the order of COLUMNS."""
    return [_pair_row(batch, entry, conflict=0 if entry.failure is None else entry.line) for entry in entries]


def insert_pairs(
    connection: Connection, batch: BatchId, entries: Sequence[Entry], rows: Sequence[tuple[Any, ...]]
) -> Inserted:
    """Insert a slice. An id that an earlier row has: the same content is skipped, other content is an `id_conflict`."""
    failures = {int(entry.pair.row): entry.failure for entry in entries if entry.failure is not None}
    if _insert(connection, rows) == len(rows):
        return Inserted(failures=failures, repeated=frozenset())
    first, last = entries[0].pair.row, entries[-1].pair.row
    kept = set(connection.scalars(select(pairs.c.row).where(pairs.c.batch == batch, pairs.c.row.between(first, last))))
    refused = [entry for entry in entries if entry.pair.row not in kept]
    conflicts = dict(_conflicts(connection, batch, refused))
    conflicting = [entry for entry in refused if entry.line in conflicts]
    _insert(connection, [_pair_row(batch, entry, conflict=entry.line) for entry in conflicting])
    failures |= {int(entry.pair.row): conflicts[entry.line] for entry in conflicting}
    repeated = frozenset(int(entry.pair.row) for entry in refused if entry.line not in conflicts)
    return Inserted(failures=failures, repeated=repeated)


def _pair_row(batch: BatchId, entry: Entry, *, conflict: int) -> tuple[Any, ...]:
    row = pair_to_row(entry.pair)
    texts = (row["image"], row["caption"], row["premise"], row["extra"], row["raw"])
    return (batch, row["row"], row["id"], conflict, *texts)


def _conflicts(connection: Connection, batch: BatchId, refused: Sequence[Entry]) -> Iterator[tuple[int, Failure]]:
    for start in range(0, len(refused), IDS_AT_ONCE):
        some = refused[start : start + IDS_AT_ONCE]
        ids = sorted({entry.pair.id for entry in some})
        owners = select(pairs).where(pairs.c.batch == batch, pairs.c.id.in_(ids), pairs.c.conflict == 0)
        by_id = {row["id"]: row_to_pair(dict(row)) for row in connection.execute(owners).mappings()}
        for entry in some:
            owner = by_id[entry.pair.id]
            if replace(owner, row=entry.pair.row) != entry.pair:
                detail = f"line {entry.line}: the id is that of pair {owner.row + 1}, which has other content"
                yield entry.line, Failure(code="id_conflict", detail=detail)


def _insert(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
    """Insert in row order and return how many were new; the first row with an id keeps it."""
    if not rows:
        return 0
    if connection.dialect.name == "postgresql":
        return _copy(connection, rows)
    marks = ", ".join("?" * len(COLUMNS))
    statement = f"INSERT INTO pairs ({NAMES}) VALUES ({marks}) ON CONFLICT (batch, id, conflict) DO NOTHING"  # noqa: S608 - constants
    return connection.exec_driver_sql(statement, list(rows)).rowcount


def _copy(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
    # COPY knows no ON CONFLICT, so it fills a table of this transaction first; executemany is half as fast.
    connection.execute(text("CREATE TEMPORARY TABLE slice (LIKE pairs INCLUDING DEFAULTS) ON COMMIT DROP"))
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]  # any
    try:
        with driver.cursor() as cursor, cursor.copy(f"COPY slice ({NAMES}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as error:  # as SQLAlchemy would have raised it, for whoever retries and translates
        raise DBAPIError.instance("COPY", None, error, psycopg.Error, hide_parameters=True) from error
    merge = f"INSERT INTO pairs ({NAMES}) SELECT {NAMES} FROM slice ORDER BY row ON CONFLICT (batch, id, conflict) DO NOTHING"  # noqa: S608, E501 - constants
    inserted = connection.execute(text(merge)).rowcount
    connection.execute(text("DROP TABLE slice"))
    return inserted
