"""Connections: SQLite in WAL mode with full durability, or PostgreSQL; and the one way to run a transaction."""

import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Transaction, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Double

from audit.errors import LedgerUnavailable, UsageError
from db.faults import is_conflict, locked_by, translate
from db.locks import describe, write_lock_holder
from db.silence import patient_for

T = TypeVar("T")
SQLITE_BUSY_S = 5.0
"""How long one try waits for another writer; transact() tries 8 times."""
POOL_SIZE = 3
"""Connections of one process to PostgreSQL at most: the thread that judges, and two that decode and ask the cache."""
LOCKED_S = 10.0
"""After so long no further try begins on PostgreSQL: all of them together stay below a lease, in which a chunk's holder
has to tell of progress. On SQLite the busy time is chosen for that (worker/child.py)."""
LIMITS = "SET LOCAL lock_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '60s'"
"""A lock is waited for so long, then the transaction runs again; a client that hangs in one loses it, and its locks.

There is no statement_timeout: a slice, a large cancel and an export differ by orders of magnitude, and whoever hangs in
a statement loses its lease.
"""


SQL_NOW = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
}
"""What db_now() is in SQL, for statements that are written out."""


class db_now(FunctionElement[float]):  # noqa: N801 - reads as SQL does
    """Seconds since the epoch by the database's clock, advancing inside a transaction too."""

    type = Double()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _sqlite_now(*_: Any, **__: Any) -> str:
    return SQL_NOW["sqlite"]


@compiles(db_now, "postgresql")
def _postgresql_now(*_: Any, **__: Any) -> str:
    return SQL_NOW["postgresql"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """One process's way to the ledger. It must not cross a fork: every child opens its own."""

    engine: Engine
    pid: int

    @property
    def is_sqlite(self) -> bool:
        """Whether the ledger is a file of this host."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read-only look at one consistent state; raises LedgerUnavailable."""
        with self._translated(), self.engine.connect() as connection, _begin(connection):
            yield connection

    def transact(self, work: Callable[[Connection], T], *, tries: int = 8) -> T:
        """Run `work` in one write transaction, again from the start when another writer was in the way.

        `work` may run several times and must have no effect outside of the connection. Raises LedgerUnavailable.
        """
        began = time.monotonic()
        for attempt in range(1, tries + 1):
            try:
                return self._once(work)
            except PoolTimeout as error:
                raise translate(error) from error
            except DBAPIError as error:
                late = not self.is_sqlite and time.monotonic() - began > LOCKED_S
                if attempt == tries or late or not is_conflict(error):
                    raise self._named(error) from error
                time.sleep(random.uniform(0.01, 0.05) * attempt)  # noqa: S311 - spreads writers, guards nothing
        raise AssertionError("unreachable")

    def _named(self, error: DBAPIError) -> Exception:
        """What the error means; of a SQLite file that stays locked, who holds it."""
        holder = None
        if self.is_sqlite and is_conflict(error):
            holder = write_lock_holder(self.engine.url.database or "")
        return translate(error) if holder is None else locked_by(describe(holder))

    def close(self) -> None:
        """Give back every connection; a later transaction opens one again."""
        self.engine.dispose()

    def _once(self, work: Callable[[Connection], T]) -> T:
        if self.pid != os.getpid():
            raise RuntimeError("a ledger connection was inherited through fork: open one in the child")
        with self.engine.connect().execution_options(writes=True) as connection, _begin(connection):
            return work(connection)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        if self.pid != os.getpid():
            raise RuntimeError("a ledger connection was inherited through fork: open one in the child")
        try:
            yield
        except (DBAPIError, PoolTimeout) as error:
            raise translate(error) from error


def _begin(connection: Connection) -> Transaction:
    """Begin, on another connection when this one of the pool turns out to be dead: nothing was asked of it yet.

    So no look-up is needed before each transaction. Later, what was done is not known, and nobody repeats it here.
    """
    try:
        return connection.begin()
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        return connection.begin()


def open_database(url: str, *, busy_s: float = SQLITE_BUSY_S, silent_s: float | None = None) -> Database:
    """Connect lazily to `sqlite:///PATH` or `postgresql+psycopg://...`; raises UsageError for another kind of URL.

    With `silent_s` a PostgreSQL that says nothing for so long is away; longer than a lock is waited for. Without it a
    statement may take any time.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            return Database(engine=_sqlite(url, parsed.database, busy_s), pid=os.getpid())
        if parsed.get_backend_name() == "postgresql":
            return Database(engine=_postgresql(url, silent_s), pid=os.getpid())
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError):
        pass  # whose text may hold a piece of a password
    raise UsageError("bad_setting", "DATABASE_URL must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME")


def _sqlite(url: str, path: str | None, busy_s: float) -> Engine:
    if not path or path == ":memory:":
        raise UsageError("bad_setting", "DATABASE_URL names no file: a ledger in memory would be lost")
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LedgerUnavailable("ledger_unavailable", f"cannot make {Path(path).parent}: {error.strerror}") from error
    # hide_parameters: captions and file names do not belong into a message, nor into a log.
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": busy_s, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver's guess
        # FULL: a commit survives a power cut. WAL: readers never wait for the writer.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes later could find its snapshot stale; writers take the lock at once.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: str, silent_s: float | None) -> Engine:
    # A server that dies in the middle of a COPY makes it warn on stderr; the error itself is translated below.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    engine = create_engine(
        url,
        hide_parameters=True,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_use_lifo=True,  # the last one used is used again: what is not needed is not kept busy
        connect_args={
            "autocommit": True,  # transactions are begun below: BEGIN and its limits in one message
            "connect_timeout": 5,
            "client_encoding": "UTF8",
            "application_name": "caption-audit",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            # Keepalives do not count while data is unacknowledged; without this a partition blocks for a quarter hour.
            "tcp_user_timeout": 20000,
            # Server-side prepared statements break behind transaction poolers such as PgBouncer.
            "prepare_threshold": None,
        },
    )

    if silent_s is not None:
        patient = patient_for(silent_s)

        @event.listens_for(engine, "do_connect")
        def _connect(_dialect: object, _record: object, arguments: Any, named: Any) -> Any:
            return patient.connect(*arguments, **named)

    @event.listens_for(engine, "begin")
    def _limited(connection: Connection) -> None:
        # Each statement of a reader would see a state of its own otherwise, and a sum over several could be of none.
        writes = connection.get_execution_options().get("writes", False)
        level = "READ COMMITTED" if writes else "REPEATABLE READ"
        # For each transaction anew: a pooler refuses them as startup options, and gives a plain SET to whoever is next.
        connection.exec_driver_sql(f"BEGIN ISOLATION LEVEL {level}; {LIMITS}")

    return engine
