"""Writing outcomes and judgements that may be there already, by the way that was fastest on each database.

On PostgreSQL that is one statement with one JSON text, on SQLite the driver's executemany: docs/results/record_rate.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table

from db.codec import COMPACT
from db.engine import SQL_NOW
from db.tables import judgements, outcomes

REMEMBERED = ("content_key", "p_yes", "p_no", "p_maybe")
"""What a row of `judgements` holds, but for its time."""
Values = Mapping[str, Any]


def insert_outcomes(connection: Connection, shared: Values, rows: Sequence[Values]) -> None:
    """Insert rows of `outcomes`, each with the values that all share; a pair that has an outcome keeps it.

    All rows have the same columns in the same order; judged_at is the database's.
    """
    _insert(connection, outcomes, shared, rows, clock="judged_at")


def insert_judgements(connection: Connection, rows: Sequence[Values]) -> None:
    """Insert rows with the columns REMEMBERED; the first writer of a key wins.

    In the order of their keys, so that two writers of the same ones cannot lock each other in opposite order.
    """
    ordered = sorted(rows, key=lambda row: str(row["content_key"]))
    _insert(connection, judgements, {}, ordered, clock="created_at")


def _insert(connection: Connection, table: Table, shared: Values, rows: Sequence[Values], *, clock: str) -> None:
    if not rows:
        return
    columns = (*shared, *rows[0])
    into = f"INSERT INTO {table.name} ({', '.join(columns)}, {clock})"
    now = SQL_NOW[connection.dialect.name]
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        first = tuple(shared.values())
        given = [(*first, *row.values()) for row in rows]
        connection.exec_driver_sql(f"{into} VALUES ({marks}, {now}) ON CONFLICT DO NOTHING", given)
        return
    types = {column.name: column.type.compile(dialect=connection.dialect) for column in table.columns}
    select = _from_json(types, tuple(shared), tuple(rows[0]), now)
    text = COMPACT.encode([dict(row) for row in rows])
    connection.exec_driver_sql(f"{into} {select} ON CONFLICT DO NOTHING", (*shared.values(), text))


def _from_json(types: Mapping[str, str], shared: Sequence[str], own: Sequence[str], now: str) -> str:
    """SELECT from a JSON array of objects, in its order; the shared values are parameters of their own."""
    fixed = "".join(f"%s::{types[name]}, " for name in shared)
    fields = ", ".join(f"{name} {types[name]}" for name in own)
    return f"SELECT {fixed}given.*, {now} FROM json_to_recordset(%s::json) AS given({fields})"  # noqa: S608 - names of our own
