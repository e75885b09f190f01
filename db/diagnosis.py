"""What a database tells of itself: for `caption-audit doctor`, which only looks.

open_database() would make the folder of a SQLite ledger, and its files; open_to_look() makes nothing.
"""

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from audit.errors import LedgerRefused, LedgerUnavailable
from db.engine import SQL_NOW, Database, open_database

BLOCKERS = text("""
    SELECT DISTINCT holder.pid, coalesce(holder.application_name, '') AS program, coalesce(holder.usename, '') AS role,
        coalesce(holder.client_addr::text, 'this host') AS host, coalesce(holder.state, '') AS state,
        extract(epoch FROM clock_timestamp() - holder.xact_start)::double precision AS transaction_s,
        (SELECT count(*) FROM pg_stat_activity w
         WHERE w.datname = current_database() AND holder.pid = ANY (pg_blocking_pids(w.pid))) AS waiting
    FROM pg_stat_activity waiter
    CROSS JOIN LATERAL unnest(pg_blocking_pids(waiter.pid)) AS blocking(pid)
    JOIN pg_stat_activity holder ON holder.pid = blocking.pid
    WHERE waiter.datname = current_database()
    ORDER BY transaction_s DESC NULLS LAST
""")
"""Sessions that others of this database wait for; their statements are not asked for: they may hold captions."""
SERVER = text("""
    SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,
        pg_is_in_recovery() AS standby, current_setting('fsync') AS fsync,
        current_setting('full_page_writes') AS full_page_writes,
        current_setting('synchronous_commit') AS synchronous_commit,
        current_setting('max_connections')::int AS most_connections,
        (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A PostgreSQL; settings are as SHOW prints them. `number` is 150004 for 15.4."""

    version: str
    number: int
    standby: bool
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    most_connections: int
    connections: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """A session that `waiting` others wait for; `transaction_s` is how long its transaction has been open."""

    pid: int
    program: str
    role: str
    host: str
    state: str
    transaction_s: float | None
    waiting: int


def open_to_look(url: str, *, silent_s: float) -> Database:
    """The ledger, to be read and not to be written: nothing is made, also no file beside a SQLite ledger.

    Raises LedgerUnavailable where there is no such file, UsageError for a URL that is none.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return open_database(url)  # which says what is wrong with it
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return open_database(url, silent_s=silent_s)
    path = os.path.abspath(parsed.database)
    if not os.path.isfile(path):
        raise LedgerUnavailable("ledger_unavailable", f"there is no ledger {path} yet")
    # Where nobody has the file open, a reader in WAL mode would make -shm and -wal; and nobody writes, either.
    mode = "mode=ro" if os.path.exists(f"{path}-shm") else "mode=ro&immutable=1"
    address = f"file:{quote(path)}?{mode}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(address, uri=True, timeout=silent_s, check_same_thread=False)

    return Database(engine=create_engine("sqlite://", creator=connect, hide_parameters=True), pid=os.getpid())


def seconds(database: Database) -> float:
    """The database's clock, in seconds since the epoch. Raises LedgerUnavailable."""
    with database.reading() as connection:
        return float(connection.scalar(text(f"SELECT {SQL_NOW[connection.dialect.name]}")) or 0.0)


def server(database: Database) -> Server:
    """Settings and state of a PostgreSQL. Raises LedgerUnavailable."""
    with database.reading() as connection:
        return Server(**connection.execute(SERVER).one()._mapping)


def blockers(database: Database) -> list[Blocker]:
    """Who keeps others of this PostgreSQL database waiting, the oldest transaction first. Raises LedgerUnavailable."""
    with database.reading() as connection:
        return [Blocker(**row._mapping) for row in connection.execute(BLOCKERS)]


def is_wal(path: Path) -> bool:
    """Whether a SQLite file says of itself that it has a write-ahead log. Raises LedgerRefused for what is no database.

    Bytes 18 and 19 of its header are 2 then (https://sqlite.org/fileformat2.html#file_format_version_numbers); a reader
    that makes no files is told `delete` by PRAGMA journal_mode.
    """
    try:
        with path.open("rb") as file:
            header = file.read(20)
    except OSError as error:
        raise LedgerRefused("ledger_file", f"{path} cannot be read: {error.strerror}") from error
    if header and not header.startswith(b"SQLite format 3\0"):
        raise LedgerRefused("not_a_ledger", f"{path} is no SQLite database: mend AUDIT_HOME or DATABASE_URL")
    return header[18:20] == b"\2\2"


def wal_bytes(path: Path) -> int:
    """What a SQLite file's write-ahead log takes; 0 where there is none."""
    try:
        return os.stat(f"{path}-wal").st_size
    except OSError:
        return 0
