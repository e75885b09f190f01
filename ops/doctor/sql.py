"""The ledger: whether it answers, its version and schema, whether a commit survives a power cut, who holds a lock."""

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from audit.errors import LedgerRefused, LedgerUnavailable, UsageError
from audit.settings import Settings
from audit.urls import redact
from ops.doctor.disk import ledger_file
from ops.doctor.lines import Line, ok, warning, wrong
from ops.text import counted, duration

if TYPE_CHECKING:
    from db.diagnosis import Blocker, Server
    from db.engine import Database

HELD_S = 1.5
"""A writer holds SQLite's lock for milliseconds; who has it for so long and commits nothing hangs, or is stopped."""
LOOK_EVERY_S = 0.05
BLOCKED_S = 2.0
"""An open transaction of that age that others wait for; ours last milliseconds, a migration some seconds."""
OLDEST_SQLITE = (3, 35)
"""The first one with RETURNING."""
OLDEST_TESTED = 15
"""PostgreSQL's major version; docs/postgresql.md."""
LARGE_WAL_BYTES = 1_000_000_000
AWAY = "nothing is submitted, judged or shown; workers wait for it"


def ledger_lines(settings: Settings, *, limit_s: float) -> Iterator[Line]:
    """Everything about the ledger but who holds a lock of a SQLite file: that must not wait for its answer."""
    from db.diagnosis import open_to_look

    where = redact(settings.ledger_url)
    file = ledger_file(settings)
    if file is not None and not file.exists():
        means = "nothing was submitted yet, or another AUDIT_HOME or DATABASE_URL is meant"
        yield warning(
            "reachable", f"{file} is not there yet", means=means, cure="the first `caption-audit submit` makes it"
        )
        return
    try:
        database = open_to_look(settings.ledger_url, silent_s=limit_s)
        try:
            yield from _sqlite(file) if file is not None else _postgresql(database, where)
            yield _schema(database)
        finally:
            database.close()
    except (LedgerRefused, UsageError) as error:
        yield wrong("reachable", where, means=AWAY, cure=error.detail)
    except LedgerUnavailable as error:
        cure = "look at DATABASE_URL, at the network, and whether the database runs"
        yield wrong("reachable", f"{where}: {error.detail}", means=AWAY, cure=cure)


def lock_lines(settings: Settings) -> Iterator[Line]:
    """Who holds the write lock of a SQLite ledger: whoever is seen with it time after time."""
    from db.locks import describe, write_lock_holder

    file = ledger_file(settings)
    if file is None or not file.exists():
        return
    until, log = time.monotonic() + HELD_S, _stamp(file)
    holder = write_lock_holder(str(file))
    while holder is not None and time.monotonic() < until:
        time.sleep(LOOK_EVERY_S)
        # A busy writer may well be met each time; but its commits are seen in the write-ahead log.
        if write_lock_holder(str(file)) != holder or _stamp(file) != log:
            holder = None
    if holder is None:
        yield ok("lock", "nobody who is seen from here holds the write lock for long")
        return
    told = describe(holder)
    cure = f"kill -CONT {holder}, or end it" if "stopped" in told else f"see what it does; `kill {holder}` ends it"
    means = "nobody else can write: nothing is submitted, claimed or recorded"
    yield wrong("lock", f"{told} has held the write lock for {HELD_S:g} s and longer", means=means, cure=cure)


def _stamp(file: Path) -> tuple[int, int] | None:
    """Size and time of the write-ahead log."""
    try:
        found = os.stat(f"{file}-wal")
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _sqlite(file: Path) -> Iterator[Line]:
    from db.diagnosis import is_wal, wal_bytes

    wal, size = is_wal(file), wal_bytes(file)
    yield ok("reachable", f"{file}, {file.stat().st_size / 1e6:,.1f} MB")
    version = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        means = "statements of the ledger are not understood"
        yield wrong("version", f"SQLite {version}", means=means, cure="use a Python with a newer SQLite")
    else:
        yield ok("version", f"SQLite {version}")
    if not wal:
        means = "readers wait for writers; the next command that writes sets WAL, unless the file system cannot"
        yield warning("journal", "no write-ahead log", means=means, cure="run `caption-audit db upgrade`")
        return
    found = f"journal_mode wal, {size / 1e6:,.1f} MB in it; every connection of ours sets synchronous=FULL"
    if size and not Path(f"{file}-shm").exists():
        means = "what is in it was not looked at; the next command reads it into the ledger"
        yield warning(
            "journal", f"{found}; it was left by a crash, or copied", means=means, cure="`caption-audit status`"
        )
    elif size > LARGE_WAL_BYTES:
        means = "a reader that never ends keeps it from being emptied, and reading grows slow"
        yield warning("journal", found, means=means, cure="end exports and other readers that hang")
    else:
        yield ok("journal", found)


def _postgresql(database: "Database", where: str) -> Iterator[Line]:
    from db.diagnosis import blockers, server

    told = server(database)
    yield ok("reachable", where)
    if told.number // 10_000 < OLDEST_TESTED:
        means = f"nobody has run the tests with it; they run with {OLDEST_TESTED} and 18"
        yield warning("version", f"PostgreSQL {told.version}", means=means, cure="upgrade it")
    else:
        yield ok("version", f"PostgreSQL {told.version}")
    if told.standby:
        cure = "DATABASE_URL must lead to the primary"
        yield wrong("role", "a standby, or in recovery", means="it takes no writes", cure=cure)
    yield _durable(told)
    yield _connections(told)
    yield _blocked(blockers(database))


def _durable(told: "Server") -> Line:
    settings = {name: getattr(told, name) for name in ("fsync", "full_page_writes", "synchronous_commit")}
    found = ", ".join(f"{name} {value}" for name, value in settings.items())
    off = [name for name, value in settings.items() if value == "off"]
    if not off:
        return ok("durability", found)
    means = "a power cut takes back outcomes that were told as done"
    if off != ["synchronous_commit"]:
        means = "a crash of the server's machine can damage the ledger for good"
    return warning("durability", found, means=means, cure=f"set {' and '.join(off)} to on")


def _connections(told: "Server") -> Line:
    found = f"{told.connections} of {told.most_connections}"
    if told.connections > 0.9 * told.most_connections:
        cure = "raise max_connections, run fewer slots, or put PgBouncer between"
        return warning("connections", found, means="new ones will be refused", cure=cure)
    return ok("connections", found)


def _blocked(found: list["Blocker"]) -> Line:
    old = [one for one in found if one.transaction_s is not None and one.transaction_s >= BLOCKED_S]
    if not old:
        return ok("lock", "nobody keeps others waiting for long")
    worst = old[0]
    who = f"session {worst.pid} ({worst.program or 'no name'}, role {worst.role}, from {worst.host}, {worst.state})"
    age = duration(worst.transaction_s or 0.0)
    more = f"; {len(old) - 1} more do" if len(old) > 1 else ""
    return wrong(
        "lock",
        f"{who} keeps {counted(worst.waiting, 'session')} waiting; its transaction is {age} old{more}",
        means="chunks are not claimed or recorded until it lets go; each try waits for 5 s",
        cure=f"end what it runs, or SELECT pg_terminate_backend({worst.pid})",
    )


def _schema(database: "Database") -> Line:
    from db.schema import HEAD, served_revision

    cure = "run `caption-audit db upgrade`"
    try:
        revision, serves = served_revision(database)
    except LedgerRefused as error:
        return wrong("schema", error.detail, means="DATABASE_URL leads to something else", cure="mend DATABASE_URL")
    if serves:
        still = "as this version needs" if revision == HEAD else f"which still serves this version ({HEAD})"
        return ok("schema", f"{revision}, {still}")
    found = f"{revision or 'no tables yet'}, this version needs {HEAD}"
    if revision is not None and revision > HEAD:
        cure = "upgrade caption-audit"
    return wrong("schema", found, means="no worker starts, and nothing can be submitted", cure=cure)
