"""Copying a SQLite ledger beside its writers."""

import sqlite3
from contextlib import closing

from audit.errors import LedgerUnavailable
from db.engine import SQLITE_BUSY_S, Database


def copy_sqlite(database: Database, target: str) -> str | None:
    """Write the ledger's state of one moment to this empty file; returns what is damaged about it, None if nothing is.

    The copy is one step in one read transaction: in WAL mode it keeps no writer waiting, and a copy in several steps
    would begin again with each commit of another process. Raises LedgerUnavailable.
    """
    source = database.engine.url.database or ""
    try:
        with (
            closing(sqlite3.connect(f"file:{_quoted(source)}?mode=rw", uri=True, timeout=SQLITE_BUSY_S)) as held,
            closing(sqlite3.connect(target, timeout=SQLITE_BUSY_S)) as copy,
        ):
            held.backup(copy, pages=-1)
            (told,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
            # A file that is whole alone: nobody has to carry a -wal with it. Opened as a ledger it is WAL again.
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise LedgerUnavailable("ledger_unavailable", f"the ledger cannot be copied: {error}") from error
    return None if told == "ok" else str(told)


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
