"""Writing outcomes and judgements that may be there already, by the way that was fastest on each database.

On PostgreSQL that is one statement with one JSON text, on SQLite the driver's executemany: docs/results/record_rate.md.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql

from db.codec import COMPACT
from db.engine import SQL_NOW
from db.tables import outcomes

REMEMBERED = ("content_key", "p_yes", "p_no", "p_maybe")
"""What a row of `judgements` holds, but for its time."""


def insert_outcomes(connection: Connection, shared: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows of `outcomes`, each with the values that all share, and remember the scores that were not cached.

    A pair that has an outcome keeps it; the first writer of a content key wins. All rows have the same columns in the
    same order. Times are the database's.
    """
    if not rows:
        return
    columns = (tuple(shared), tuple(rows[0]))
    if connection.dialect.name == "postgresql":
        text = COMPACT.encode([dict(row) for row in rows])
        connection.exec_driver_sql(_both(*columns), (text, *shared.values()))
        return
    first = tuple(shared.values())
    _each(connection, _into_outcomes(*columns), [(*first, *row.values()) for row in rows])
    fresh = [row for row in rows if row["content_key"] and not row["cached"]]
    if fresh:
        _each(connection, _INTO_JUDGEMENTS, [tuple(row[name] for name in REMEMBERED) for row in fresh])


_INTO_JUDGEMENTS = f"INSERT INTO judgements ({', '.join(REMEMBERED)}, created_at)"


def _into_outcomes(shared: Sequence[str], own: Sequence[str]) -> str:
    return f"INSERT INTO outcomes ({', '.join((*shared, *own))}, judged_at)"


def _each(connection: Connection, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
    marks = ", ".join("?" * len(rows[0]))
    connection.exec_driver_sql(f"{into} VALUES ({marks}, {SQL_NOW['sqlite']}) ON CONFLICT DO NOTHING", list(rows))


@cache
def _both(shared: Sequence[str], own: Sequence[str]) -> str:
    """PostgreSQL's statement; its parameters are a JSON array of objects, and the shared values.

    Judgements in the order of their keys: two writers of the same ones cannot lock each other in opposite order.
    """
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy annotates no dialect's constructor
    types = {column.name: column.type.compile(dialect=dialect) for column in outcomes.columns}
    fields = ", ".join(f"{name} {types[name]}" for name in own)
    fixed = "".join(f"%s::{types[name]}, " for name in shared)
    now, remembered = SQL_NOW["postgresql"], ", ".join(REMEMBERED)
    return (
        f"WITH given AS MATERIALIZED (SELECT * FROM json_to_recordset(%s::json) AS given({fields})),"  # noqa: S608 - names of our own
        f" written AS ({_into_outcomes(shared, own)} SELECT {fixed}given.*, {now} FROM given ON CONFLICT DO NOTHING)"
        f" {_INTO_JUDGEMENTS} SELECT {remembered}, {now} FROM given WHERE content_key IS NOT NULL AND NOT cached"
        " ORDER BY content_key ON CONFLICT DO NOTHING"
    )
