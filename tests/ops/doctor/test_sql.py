"""What the doctor says of real ledgers that are locked, behind, closed, or not there."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg

from audit.settings import Settings
from db.engine import Database, open_database
from db.locks import write_lock_holder
from db.schema import HEAD
from ops.doctor.lines import Line, State
from ops.doctor.sql import ledger_lines, lock_lines
from tests.conftest import make_settings
from tests.ops.conftest import Cli
from tests.ops.doctor.conftest import LIMIT_S, Named
from tests.support.ports import free_port
from tests.support.postgres_server import PostgresServer
from tests.support.sql_sessions import as_admin, driver_url
from tests.support.waiting import wait_until

WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("BEGIN IMMEDIATE")
connection.execute("CREATE TABLE IF NOT EXISTS mine (n)")
print("begun", flush=True)
sys.stdin.read()
"""


BUSY = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("CREATE TABLE mine (n)")
print("begun", flush=True)
while True:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO mine VALUES (1)")
    time.sleep(0.2)
    connection.execute("COMMIT")
"""


def lines(settings: Settings) -> Iterator[Line]:
    return ledger_lines(settings, limit_s=LIMIT_S)


def at(tmp_path: Path, url: str) -> Settings:
    return make_settings(tmp_path, database_url=url)


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Names, sizes and times of what is in a folder."""
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


@contextmanager
def writer(path: Path, code: str = WRITER) -> Iterator["subprocess.Popen[str]"]:
    """Another process in the middle of a write transaction."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=pipe, stdout=pipe, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_ledger_as_it_should_be_is_ok(settings: Settings) -> None:
    """On both databases; nothing but ok."""
    told = [*lines(settings), *lock_lines(settings)]
    assert {line.name for line in told} >= {"reachable", "version", "schema", "lock"}
    # The tests' own PostgreSQL runs without fsync.
    assert {line.name for line in told if line.state is not State.OK} <= {"durability"}


def test_a_look_at_a_sqlite_ledger_leaves_no_trace(sqlite_settings: Settings) -> None:
    """Opened as usual it would get a -wal and a -shm file, perhaps of another owner: then no worker can write."""
    before = listing(sqlite_settings.home)
    assert {line.state for line in lines(sqlite_settings)} == {State.OK}
    assert listing(sqlite_settings.home) == before
    with writer(sqlite_settings.home / "audit.db") as crashed:
        crashed.kill()
        crashed.wait()
        before = listing(sqlite_settings.home)
        assert {"audit.db-wal", "audit.db-shm"} <= set(before)
        list(lines(sqlite_settings))
        after = listing(sqlite_settings.home)
    assert {name: seen for name, seen in after.items() if name != "audit.db-shm"} == {
        name: seen for name, seen in before.items() if name != "audit.db-shm"
    }


def test_a_ledger_that_is_not_there_yet_is_a_warning_and_is_not_made(tmp_path: Path, named: Named) -> None:
    """Before the first submission that is as it should be; in the wrong folder it is what one wants to know."""
    assert named(lines(make_settings(tmp_path)), "reachable").state is State.WARNING
    assert not (tmp_path / "home").exists()


def test_the_process_that_holds_the_write_lock_is_named(sqlite_settings: Settings, cli: Cli, named: Named) -> None:
    """A process that is stopped while it writes stops everybody: somebody has to know which one it is."""
    with writer(sqlite_settings.home / "audit.db") as holder:
        os.kill(holder.pid, signal.SIGSTOP)
        asked = cli("doctor", "--only", "sql", "--limit", "120", DATABASE_URL=sqlite_settings.ledger_url)
        assert asked.returncode == 1
        (line,) = [line for line in asked.stdout.splitlines() if "  wrong  " in line]
        assert f"lock: process {holder.pid} (" in line
        assert "which is stopped" in line
        assert f"kill -CONT {holder.pid}" in asked.stdout
        assert named(lines(sqlite_settings), "schema").state is State.OK, "readers go on"
    assert named(lock_lines(sqlite_settings), "lock").state is State.OK


def test_a_busy_writer_is_not_accused(sqlite_settings: Settings, named: Named) -> None:
    """A worker under load holds the lock most of the time, and lets go after each commit."""
    path = sqlite_settings.home / "audit.db"
    with writer(path, BUSY) as busy:
        wait_until(lambda: write_lock_holder(str(path)) == busy.pid, timeout_s=60, what="the writer to write")
        assert {named(lock_lines(sqlite_settings), "lock").state for _ in range(3)} == {State.OK}


def test_a_journal_that_is_not_wal_is_a_warning(sqlite_settings: Settings, named: Named) -> None:
    """Readers would wait for writers; VACUUM INTO and restores leave such files."""
    with closing(sqlite3.connect(sqlite_settings.home / "audit.db")) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    assert named(lines(sqlite_settings), "journal").state is State.WARNING


def test_what_a_crash_left_in_the_log_is_told(sqlite_settings: Settings, named: Named) -> None:
    """A copy without its -shm says less than what was committed."""
    path = sqlite_settings.home / "audit.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE mine (n)")
        connection.commit()
        log = Path(f"{path}-wal").read_bytes()
    Path(f"{path}-wal").write_bytes(log)
    line = named(lines(sqlite_settings), "journal")
    assert (line.state, "left by a crash" in line.found) == (State.WARNING, True)


def test_a_file_that_is_no_ledger_is_wrong(tmp_path: Path, sqlite_settings: Settings) -> None:
    """DATABASE_URL has a typing error in it, or a disk has."""
    path = sqlite_settings.home / "audit.db"
    path.write_bytes(b"no database" * 1000)
    assert State.WRONG in {line.state for line in lines(sqlite_settings)}


def test_a_schema_that_is_behind_or_ahead_is_wrong(settings: Settings, named: Named) -> None:
    """A worker would refuse it: somebody has to upgrade the one or the other."""
    database = open_database(settings.ledger_url)
    for revision, cure in (("0001", "db upgrade"), ("9999", "upgrade caption-audit")):
        with database.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")
            connection.exec_driver_sql(f"UPDATE schema_serves SET oldest = '{revision}'")
        database.close()
        line = named(lines(settings), "schema")
        assert (line.state, line.found) == (State.WRONG, f"{revision}, this version needs {HEAD}")
        assert cure in line.cure


def test_an_empty_database_and_one_of_somebody_else_are_wrong(own_postgres: PostgresServer, tmp_path: Path) -> None:
    """The first needs an upgrade, the second another name in DATABASE_URL."""
    found = {}
    for name, statement in (("empty", "SELECT 1"), ("other", "CREATE TABLE theirs (n int)")):
        own_postgres.create(name)
        as_admin(own_postgres.url(name), statement)
        told = {line.name: line for line in lines(at(tmp_path, own_postgres.url(name)))}
        found[name] = (told["schema"].state, told["schema"].cure)
    assert found["empty"] == (State.WRONG, "run `caption-audit db upgrade`")
    assert found["other"] == (State.WRONG, "mend DATABASE_URL")


def test_a_postgresql_that_is_away_or_refuses_is_wrong(
    own_postgres: PostgresServer, tmp_path: Path, named: Named
) -> None:
    """With what to do, and without the password."""
    wrong_password = own_postgres.url("ledger").replace(own_postgres.password, "hunter2222")
    line = named(lines(at(tmp_path, wrong_password)), "reachable")
    assert (line.state, "AUDIT_DATABASE_PASSWORD" in line.cure, "hunter2222" in repr(line)) == (
        State.WRONG,
        True,
        False,
    )
    line = named(lines(at(tmp_path, own_postgres.url("absent"))), "reachable")
    assert (line.state, "create it" in line.cure) == (State.WRONG, True)
    line = named(lines(at(tmp_path, f"postgresql://me@127.0.0.1:{free_port()}/ledger")), "reachable")
    assert line.state is State.WRONG


def test_settings_that_forget_commits_are_a_warning(own_postgres: PostgresServer, tmp_path: Path, named: Named) -> None:
    """The test's own server runs without fsync, as no other should."""
    settings = at(tmp_path, own_postgres.url("ledger"))
    line = named(lines(settings), "durability")
    assert (line.state, "damage" in line.means) == (State.WARNING, True)


def test_the_session_that_keeps_others_waiting_is_named(
    own_postgres: PostgresServer, tmp_path: Path, named: Named
) -> None:
    """Somebody's psql with an open transaction stops every worker; its number is what ends it."""
    url = own_postgres.url("ledger")
    settings = at(tmp_path, url)
    assert named(lines(settings), "lock").state is State.OK
    with psycopg.connect(url, application_name="somebody's psql\nok") as holder:
        holder.execute("LOCK TABLE batches")
        pid = holder.info.backend_pid
        waiting = open_database(driver_url(url))
        waits = threading.Thread(target=lambda: _write(waiting))
        waits.start()
        try:
            found = wait_until(
                lambda: [line for line in lines(settings) if line.name == "lock" and line.state is State.WRONG],
                timeout_s=60,
                what="the blocker to be seen",
            )
        finally:
            holder.rollback()
            waits.join()
            waiting.close()
    assert f"session {pid} (" in found[0].found
    assert "keeps 1 session waiting" in found[0].found
    assert f"pg_terminate_backend({pid})" in found[0].cure
    assert named(lines(settings), "lock").state is State.OK


def _write(database: Database) -> None:
    database.transact(lambda connection: connection.exec_driver_sql("UPDATE batches SET name = name"))
