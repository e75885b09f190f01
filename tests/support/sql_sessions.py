"""Sessions of PostgreSQL beside those under test: to be in their way, and to see what they wait for."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from sqlalchemy import text

from db.engine import Database, open_database


def driver_url(url: str) -> str:
    """As open_database wants it."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


@contextmanager
def another_session(url: str) -> Iterator[Database]:
    """One more process's view of the ledger."""
    opened = open_database(driver_url(url))
    try:
        yield opened
    finally:
        opened.close()


def waits_for_a_lock(database: Database) -> bool:
    """Whether any session of the server waits for a lock."""
    with database.reading() as connection:
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return bool(connection.scalar(waiting))


def as_admin(url: str, statement: str, *names: str) -> None:
    """Run one statement outside of a transaction, with {} replaced by quoted names."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))
