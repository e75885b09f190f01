"""Verifying what no batch has: the catalogue against the tables that this code knows, SQLite's file, and orphans."""

from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import CheckConstraint, Connection, Table, func, inspect, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.schema import CreateIndex

from audit.message import ChunkMessage
from audit.pair import BatchId
from db.engine import Database
from db.tables import batches, chunks, failure_history, metadata, outcomes, pairs, retries, suspects
from db.verify import Finding
from db.verify_rows import EXAMPLES

OF_A_BATCH = (chunks, pairs, outcomes, suspects, retries, failure_history)
AT_ONCE = 500
"""Chunks in one look-up: SQLite's older limit is 999 variables."""
STEPS = 1_000_000
"""SQLite asks after so many of its steps, some 10 ms, whether somebody pressed Ctrl-C."""


def verify_catalogue(database: Database) -> Iterator[Finding]:
    """Tables, columns, keys, CHECKs and indexes that the ledger should have and has not, and doubles where a key lacks.

    Extra ones are fine: a newer schema has them, and so may an operator's.
    """
    with database.reading() as connection:
        there = set(inspect(connection).get_table_names())
        for table in metadata.sorted_tables:
            if table.name not in there:
                yield Finding(kind="table_missing", detail=f"table {table.name}")
                continue
            yield from _lacking(connection, table)


def verify_orphans(database: Database) -> Iterator[Finding]:
    """Rows whose batch is gone, looked up batch by batch by the tables' keys."""
    for table in OF_A_BATCH:
        last = -(2**63)
        while True:
            with database.reading() as connection:
                found = connection.scalar(select(func.min(table.c.batch)).where(table.c.batch > last))
                if found is None:
                    break
                last = found
                if connection.scalar(select(batches.c.id).where(batches.c.id == found)) is None:
                    count = (
                        connection.scalar(select(func.count()).select_from(table).where(table.c.batch == found)) or 0
                    )
                    yield Finding(kind="without_batch", detail=f"in {table.name}", batch=BatchId(found), count=count)


def verify_file(database: Database) -> Iterator[Finding]:
    """SQLite's own checks of the whole file, which read all of it; nothing on PostgreSQL. Raises KeyboardInterrupt."""
    if not database.is_sqlite:
        return
    with database.reading() as connection:
        for line in _pragma(connection, "integrity_check"):
            if line[0] != "ok":
                yield Finding(kind="file_damaged", detail=str(line[0]))
        for line in _pragma(connection, "foreign_key_check"):
            yield Finding(kind="foreign_key_broken", detail=f"a row of {line[0]} refers to no row of {line[2]}")


def known_chunks(database: Database, asked: Collection[ChunkMessage]) -> dict[int, set[int]]:
    """Of the batches and chunks that these messages name: those that the ledger has."""
    wanted: dict[int, set[int]] = {}
    for message in asked:
        wanted.setdefault(message.batch, set()).add(message.chunk)
    known: dict[int, set[int]] = {}
    with database.reading() as connection:
        for batch, numbers in wanted.items():
            if connection.scalar(select(batches.c.id).where(batches.c.id == batch)) is None:
                continue
            known[batch] = set()
            for some in (sorted(numbers)[start : start + AT_ONCE] for start in range(0, len(numbers), AT_ONCE)):
                these = (chunks.c.batch == batch, chunks.c.number.in_(some))
                known[batch].update(connection.scalars(select(chunks.c.number).where(*these)))
    return known


def _pragma(connection: Connection, name: str) -> list[Any]:
    raw: Any = connection.connection.driver_connection
    # Python's handler of Ctrl-C runs inside of this one, whose exception makes SQLite give up; else it would wait.
    raw.set_progress_handler(lambda: 0, STEPS)
    try:
        return list(connection.exec_driver_sql(f"PRAGMA {name}").all())
    except OperationalError as error:
        if "interrupted" in str(error.orig):
            raise KeyboardInterrupt from None
        raise
    finally:
        raw.set_progress_handler(None, STEPS)


def _lacking(connection: Connection, table: Table) -> Iterator[Finding]:
    catalogue = inspect(connection)
    there = {column["name"]: column for column in catalogue.get_columns(table.name)}
    for column in table.columns:
        if column.name not in there:
            yield Finding(kind="column_missing", detail=f"{table.name}.{column.name}")
        elif not column.nullable and there[column.name]["nullable"] and not column.primary_key:
            yield Finding(kind="constraint_missing", detail=f"NOT NULL of {table.name}.{column.name}")
    if any(column.name not in there for column in table.columns):
        return  # what else could be asked about it would fail
    keys = [column.name for column in table.primary_key]
    if set(catalogue.get_pk_constraint(table.name)["constrained_columns"]) != set(keys):
        yield Finding(kind="constraint_missing", detail=f"PRIMARY KEY ({', '.join(keys)}) of {table.name}")
        yield from _doubles(connection, table, keys)
    uniques = {tuple(each["column_names"]) for each in catalogue.get_unique_constraints(table.name)}
    uniques |= {tuple(map(str, each["column_names"])) for each in catalogue.get_indexes(table.name) if each["unique"]}
    for column in table.columns:
        if column.unique and (column.name,) not in uniques:
            yield Finding(kind="constraint_missing", detail=f"UNIQUE ({column.name}) of {table.name}")
            yield from _doubles(connection, table, [column.name])
    indexes = {(tuple(each["column_names"]), bool(each["unique"])) for each in catalogue.get_indexes(table.name)}
    for index in table.indexes:
        names = tuple(column.name for column in index.columns)
        if (names, bool(index.unique)) not in indexes and not (not index.unique and (names, True) in indexes):
            cure = str(CreateIndex(index).compile(dialect=connection.dialect))
            yield Finding(kind="index_missing", detail=f"{index.name} of {table.name}: {' '.join(cure.split())}")
            if index.unique:
                yield from _doubles(connection, table, list(names))
    yield from _without_references(connection, table)


def _without_references(connection: Connection, table: Table) -> Iterator[Finding]:
    catalogue = inspect(connection)
    checks = {each["name"] for each in catalogue.get_check_constraints(table.name)}
    for constraint in table.constraints:
        if isinstance(constraint, CheckConstraint) and constraint.name not in checks:
            yield Finding(kind="constraint_missing", detail=f"CHECK {constraint.name} of {table.name}")
    references = {tuple(each["constrained_columns"]) for each in catalogue.get_foreign_keys(table.name)}
    for key in table.foreign_key_constraints:
        if tuple(key.column_keys) not in references:
            yield Finding(
                kind="constraint_missing", detail=f"FOREIGN KEY ({', '.join(key.column_keys)}) of {table.name}"
            )


def _doubles(connection: Connection, table: Table, keys: list[str]) -> Iterator[Finding]:
    """Rows with the same key, looked for only where the key does not forbid them: that reads the whole table."""
    columns = [table.c[name] for name in keys]
    query = select(*columns, func.count().label("times")).group_by(*columns).having(func.count() > 1)
    for row in connection.execute(query.limit(EXAMPLES)):
        what = ", ".join(f"{name} {value!r}" for name, value in zip(keys, row, strict=False))
        number = BatchId(row[keys.index("batch")]) if "batch" in keys else None
        yield Finding(kind="double", detail=f"{row[-1]} rows of {table.name} have {what}", batch=number)
