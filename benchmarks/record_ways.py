"""Ways to write outcomes so that writing them again changes nothing; benchmarks.record_rate times them.

Each takes a connection in a transaction and rows of `outcomes` (all columns but judged_at), and leaves out rows that
are there already. The one that db/record.py uses is not here, it is measured from there.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.dialects import postgresql, sqlite

from db.engine import SQL_NOW, db_now
from db.tables import outcomes

Row = Mapping[str, Any]
Way = Callable[[Connection, Sequence[Row]], None]
SAME = ("batch", "model", "model_revision", "engine", "precision", "device", "worker", "attempt")
"""Columns with one value in all outcomes of a chunk."""
COLUMNS = tuple(column.name for column in outcomes.columns if column.name not in ("judged_at", "trace_id"))
OWN = tuple(column for column in COLUMNS if column not in SAME)
NAMES = ", ".join((*COLUMNS, "judged_at"))
TYPES = {"BIGINT": "bigint", "INTEGER": "int", "TEXT": "text", "BOOLEAN": "boolean", "DOUBLE": "double precision"}


def _type(name: str) -> str:
    return TYPES[str(outcomes.c[name].type.compile()).split()[0]]


def core_executemany(connection: Connection, rows: Sequence[Row]) -> None:
    """SQLAlchemy's INSERT with a list of parameters."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    connection.execute(dialect.insert(outcomes).values(judged_at=db_now()).on_conflict_do_nothing(), list(rows))


def driver_executemany(connection: Connection, rows: Sequence[Row]) -> None:
    """The driver's own executemany; psycopg sends it as a pipeline."""
    name = connection.dialect.name
    marks = ", ".join(("?" if name == "sqlite" else "%s",) * len(COLUMNS))
    statement = f"INSERT INTO outcomes ({NAMES}) VALUES ({marks}, {SQL_NOW[name]}) ON CONFLICT DO NOTHING"
    connection.exec_driver_sql(statement, [tuple(row[column] for column in COLUMNS) for row in rows])


def multi_values(connection: Connection, rows: Sequence[Row]) -> None:
    """One statement with a VALUES clause of all rows, compiled anew each time; SQLite allows 32,766 variables."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    connection.execute(
        dialect.insert(outcomes).values([{**row, "judged_at": db_now()} for row in rows]).on_conflict_do_nothing()
    )


def insertmanyvalues(connection: Connection, rows: Sequence[Row]) -> None:
    """SQLAlchemy's batches of VALUES, which it makes when something is to be returned."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(outcomes).values(judged_at=db_now()).on_conflict_do_nothing().returning(outcomes.c.row)
    connection.execute(statement, list(rows)).all()


def unnest(connection: Connection, rows: Sequence[Row]) -> None:
    """PostgreSQL: one statement, an array a column."""
    arrays = ", ".join(f"%s::{_type(column)}[]" for column in COLUMNS)
    statement = (
        f"INSERT INTO outcomes ({NAMES}) SELECT *, {SQL_NOW['postgresql']} FROM unnest({arrays}) ON CONFLICT DO NOTHING"
    )
    connection.exec_driver_sql(statement, tuple([row[column] for row in rows] for column in COLUMNS))


def json_recordset(connection: Connection, rows: Sequence[Row]) -> None:
    """PostgreSQL: one statement, one JSON text."""
    columns = ", ".join(f"{column} {_type(column)}" for column in COLUMNS)
    statement = (
        f"INSERT INTO outcomes ({NAMES}) SELECT {', '.join(COLUMNS)}, {SQL_NOW['postgresql']}"
        f" FROM json_to_recordset(%s::json) AS given({columns}) ON CONFLICT DO NOTHING"
    )
    connection.exec_driver_sql(statement, (json.dumps(list(rows)),))


def unnest_own(connection: Connection, rows: Sequence[Row]) -> None:
    """PostgreSQL: one statement, an array a column, and what all rows share once."""
    arrays = ", ".join(f"%s::{_type(column)}[]" for column in OWN)
    shared = ", ".join(f"%s::{_type(column)}" for column in SAME)
    statement = (
        f"INSERT INTO outcomes ({', '.join((*OWN, *SAME))}, judged_at)"
        f" SELECT *, {shared}, {SQL_NOW['postgresql']} FROM unnest({arrays}) ON CONFLICT DO NOTHING"
    )
    given = [rows[0][column] for column in SAME] + [[row[column] for row in rows] for column in OWN]
    connection.exec_driver_sql(statement, tuple(given))


def json_own(connection: Connection, rows: Sequence[Row]) -> None:
    """PostgreSQL: one statement, one JSON text, and what all rows share once."""
    columns = ", ".join(f"{column} {_type(column)}" for column in OWN)
    shared = ", ".join(f"%s::{_type(column)}" for column in SAME)
    statement = (
        f"INSERT INTO outcomes ({', '.join((*OWN, *SAME))}, judged_at) SELECT {', '.join(OWN)}, {shared},"
        f" {SQL_NOW['postgresql']} FROM json_to_recordset(%s::json) AS given({columns}) ON CONFLICT DO NOTHING"
    )
    text_of_rows = json.dumps([{column: row[column] for column in OWN} for row in rows])
    connection.exec_driver_sql(statement, (*(rows[0][column] for column in SAME), text_of_rows))


def copy_and_merge(connection: Connection, rows: Sequence[Row]) -> None:
    """PostgreSQL: COPY into a table of this transaction, and merge it."""
    connection.execute(text("CREATE TEMPORARY TABLE judged (LIKE outcomes) ON COMMIT DROP"))
    connection.execute(text("ALTER TABLE judged ALTER COLUMN judged_at DROP NOT NULL"))
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]  # any
    with driver.cursor() as cursor, cursor.copy(f"COPY judged ({', '.join(COLUMNS)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row([row[column] for column in COLUMNS])
    merge = f"INSERT INTO outcomes ({NAMES}) SELECT {', '.join(COLUMNS)}, {SQL_NOW['postgresql']} FROM judged"
    connection.execute(text(f"{merge} ON CONFLICT DO NOTHING"))


def json_each(connection: Connection, rows: Sequence[Row]) -> None:
    """SQLite: one statement, one JSON text."""
    fields = ", ".join(f"value ->> '{column}'" for column in COLUMNS)
    statement = f"INSERT INTO outcomes ({NAMES}) SELECT {fields}, {SQL_NOW['sqlite']} FROM json_each(?) WHERE true"
    connection.exec_driver_sql(f"{statement} ON CONFLICT DO NOTHING", (json.dumps(list(rows)),))


WAYS: Mapping[str, Mapping[str, Way]] = {
    "sqlite": {
        "executemany, SQLAlchemy": core_executemany,
        "executemany, driver": driver_executemany,
        "VALUES of all rows": multi_values,
        "insertmanyvalues": insertmanyvalues,
        "one JSON text": json_each,
    },
    "postgresql": {
        "executemany, SQLAlchemy": core_executemany,
        "executemany, driver": driver_executemany,
        "VALUES of all rows": multi_values,
        "insertmanyvalues": insertmanyvalues,
        "unnest of arrays": unnest,
        "unnest, shared columns once": unnest_own,
        "one JSON text": json_recordset,
        "one JSON text, shared columns once": json_own,
        "COPY and merge": copy_and_merge,
    },
}
