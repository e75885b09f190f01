"""Who holds SQLite's write lock, as a person is told of it."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit.errors import LedgerUnavailable
from audit.settings import Settings
from db.engine import open_database
from db.locks import describe, write_lock_holder
from tests.support.waiting import wait_until

TRANSACTION = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
print("begun", flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="Linux alone names holders, in /proc/locks")


@contextmanager
def in_transaction(path: Path, *, begin: str = "BEGIN IMMEDIATE") -> Iterator[int]:
    """The pid of another process that is in the middle of a transaction."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRANSACTION, str(path), begin], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def path(sqlite_settings: Settings) -> Path:
    return sqlite_settings.home / "audit.db"


def test_the_holder_is_named_for_as_long_as_it_holds(path: Path) -> None:
    """An operator wants a process to look at; and nobody is to be suspected who has let go."""
    assert write_lock_holder(str(path)) is None
    with in_transaction(path) as pid:
        assert write_lock_holder(str(path)) == pid
    assert write_lock_holder(str(path)) is None


def test_only_who_writes_to_this_very_file_is_named(path: Path, tmp_path: Path) -> None:
    """Readers are in nobody's way, nor is the writer of another ledger; this process needs no telling of itself."""
    other = tmp_path / "other.db"
    sqlite3.connect(other).execute("PRAGMA journal_mode=WAL").connection.close()
    own = sqlite3.connect(path, isolation_level=None)
    with in_transaction(path, begin="BEGIN"), in_transaction(other) as writer:
        own.execute("BEGIN IMMEDIATE")
        assert write_lock_holder(str(path)) is None
        assert write_lock_holder(str(other)) == writer
    own.close()


def test_where_there_is_no_file_nobody_is_named(tmp_path: Path) -> None:
    """An error on the way to an error's explanation would hide the first one."""
    assert write_lock_holder(str(tmp_path / "absent.db")) is None


def test_a_process_is_told_by_number_name_and_whether_it_is_stopped() -> None:
    """A process that is stopped will not let go by itself: that is the one to wake, or to end."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        wait_until(lambda: describe(process.pid).endswith("(sleep)"), timeout_s=20, what="its own name")
        assert describe(process.pid) == f"process {process.pid} (sleep)"
        os.kill(process.pid, signal.SIGSTOP)
        stopped = f"process {process.pid} (sleep), which is stopped"
        wait_until(lambda: describe(process.pid) == stopped, timeout_s=20, what="the stop to be seen")
    finally:
        process.kill()
        process.wait()
    assert describe(process.pid) == f"process {process.pid}"


def test_who_waits_for_the_ledger_in_vain_is_told_who_has_it(sqlite_settings: Settings, path: Path) -> None:
    """ "database is locked" helps nobody at night."""
    database = open_database(sqlite_settings.ledger_url, busy_s=0.05)
    try:
        with in_transaction(path) as pid, pytest.raises(LedgerUnavailable) as refused:
            database.transact(lambda connection: None, tries=2)
        assert refused.value.detail == f"the ledger's file is locked by process {pid} ({Path(sys.executable).name})"
    finally:
        database.close()
