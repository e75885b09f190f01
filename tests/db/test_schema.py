"""The schema that migrations make is the one that the code believes in."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest
from sqlalchemy import Connection, text

from audit.errors import LedgerUnavailable, UsageError
from db.engine import Database, open_database
from db.schema import HEAD, MIGRATIONS, alembic_config, current_revision, ensure_schema, upgrade
from db.tables import metadata
from tests.conftest import fresh_database
from tests.support.sql_sessions import driver_url


def test_migrations_lead_to_the_tables_of_the_code(database: Database) -> None:
    """A column that only one of the two knows fails in production, at night."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.reading() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    assert differences == []


def test_head_is_the_newest_migration(sqlite_url: str) -> None:
    """HEAD is written down so that no command has to load Alembic to see that all is well."""
    from alembic.script import ScriptDirectory

    database = open_database(sqlite_url)
    with database.reading() as connection:
        assert ScriptDirectory.from_config(alembic_config(connection)).get_current_head() == HEAD
    assert len(list((MIGRATIONS / "versions").glob("*.py"))) == int(HEAD)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/new.db"
        return
    with fresh_database(request.getfixturevalue("postgres_admin"), template="template1") as url:
        yield driver_url(url)


def test_two_processes_that_migrate_an_empty_ledger_at_once_agree(empty_url: str) -> None:
    """`up` and `submit` may both be the first, and so may the workers of two hosts."""
    code = "import sys; from db.engine import *; from db.schema import *; ensure_schema(open_database(sys.argv[1]))"
    both = [Popen([sys.executable, "-c", code, empty_url], env={**os.environ}) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    database = open_database(empty_url)
    assert current_revision(database) == HEAD
    database.close()


def test_a_newer_ledger_that_no_longer_serves_is_left_alone(database: Database) -> None:
    """An old worker must not write into a schema that it does not know."""
    _make_newer(database, serves="9998")
    with pytest.raises(UsageError, match="schema_newer"):
        ensure_schema(database)


def test_a_newer_ledger_that_only_added_serves_on(database: Database) -> None:
    """A worker of the last version that crashes in the middle of a rolling upgrade starts again, and judges."""
    _make_newer(database, serves=HEAD)
    ensure_schema(database)
    upgrade(database)
    assert current_revision(database) == "9999"


def _make_newer(database: Database, *, serves: str) -> None:
    def work(connection: Connection) -> None:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        connection.execute(text("UPDATE schema_serves SET oldest = :serves"), {"serves": serves})

    database.transact(work)


def test_a_ledger_that_does_not_answer_is_named_without_its_password() -> None:
    """Exit 69, one line, no secret."""
    with pytest.raises(LedgerUnavailable) as caught:
        current_revision(open_database("postgresql+psycopg://me:secret@127.0.0.1:1/ledger"))
    assert caught.value.exit_status == 69
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_connection_does_not_survive_a_fork(database: Database) -> None:
    """Two processes on one socket would mix up their answers; the ledger refuses instead."""
    with database.reading() as connection:
        connection.execute(text("SELECT 1"))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            database.transact(lambda connection: None)
            os.write(write, b"inherited")
        except RuntimeError:
            os.write(write, b"refused")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 20) == b"refused"
