"""`caption-audit db ...` and its neighbours on a real PostgreSQL: one line, the cure, and a status for scripts."""

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from sqlalchemy import text

from db.engine import open_database
from db.schema import HEAD, alembic_config
from tests.ops.conftest import COMMAND, Cli
from tests.support.manifests import small_manifest
from tests.support.postgres_server import PostgresServer
from tests.support.sql_sessions import as_admin, driver_url

OLD = "0001"
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="module")
def server(postgres_binaries: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL of this file's own, whose roles and databases it may spoil."""
    started = PostgresServer(postgres_binaries)
    started.start()
    yield started
    started.close()


def database_of(server: PostgresServer, name: str, *, revision: str | None = HEAD) -> str:
    """URL of a new database at that revision; without one it is empty."""
    server.create(name)
    if revision is not None:
        migrate(server.url(name), revision)
    return server.url(name)


def execute(url: str, statement: str) -> None:
    """One statement in a ledger of its own."""
    database = open_database(driver_url(url))
    database.transact(lambda connection: connection.execute(text(statement)))
    database.close()


def migrate(url: str, revision: str) -> None:
    """Bring a ledger to a revision that need not be the newest."""
    from alembic import command

    database = open_database(driver_url(url))
    database.transact(lambda connection: command.upgrade(alembic_config(connection), revision))
    database.close()


def login(url: str, user: str, password: str) -> str:
    return url.replace(url.split("://")[1].split("@", 1)[0], f"{user}:{password}")


def test_the_whole_way_of_a_new_database(cli: Cli, server: PostgresServer, tmp_path: Path) -> None:
    """What an operator types first, in this order, and what scripts read of it."""
    env = {"DATABASE_URL": database_of(server, "fresh", revision=None)}
    assert (cli("db", "current", **env).stdout, cli("db", "check", **env).returncode) == ("none\n", 1)
    checked = cli("db", "check", "--json", **env)
    assert json.loads(checked.stdout) == {"revision": None, "needed": HEAD, "ok": False}
    made = cli("db", "upgrade", "--json", **env)
    assert json.loads(made.stdout) == {"revision": HEAD, "was": None, "changed": True}
    assert cli("db", "upgrade", **env).stdout == f"the ledger has schema {HEAD}, as before\n"
    assert cli("db", "check", **env).returncode == 0
    assert json.loads(cli("db", "current", "--json", **env).stdout) == {"revision": HEAD}


def test_a_sqlite_ledger_that_is_not_there_is_no_ledger(cli: Cli) -> None:
    """Asking in the wrong folder must not leave an empty ledger there, and is not `another schema`."""
    for command in ("check", "current"):
        told = cli("db", command)
        assert told.returncode == 2
        assert "there is no ledger" in told.stderr


def test_an_old_schema_on_postgresql_is_refused_with_the_command_that_mends_it(
    cli: Cli, server: PostgresServer, tmp_path: Path
) -> None:
    """A team decides when it migrates; until then nothing of the new version touches the old ledger."""
    env = {"DATABASE_URL": database_of(server, "old", revision=OLD), "AUDIT_START_WAIT_S": "0"}
    env |= {"AUDIT_ENGINE": "stub", "REDIS_URL": NOWHERE}
    manifest = str(small_manifest(tmp_path))
    for arguments in (("submit", manifest), ("status",), ("sweep",), ("worker",), ("up",)):
        told = cli(*arguments, **env)
        assert told.returncode == 2, (arguments, told.stderr)
        assert "run `caption-audit db upgrade`" in told.stderr.splitlines()[-1]
    assert cli("db", "current", **env).stdout == f"{OLD}\n"
    assert cli("db", "check", **env).returncode == 1
    assert cli("db", "upgrade", **env).stdout == f"the ledger has schema {HEAD} (was {OLD})\n"
    assert cli("submit", manifest, **env).returncode == 75  # the ledger takes it; there is no Redis here


def test_an_old_schema_on_sqlite_upgrades_itself(cli: Cli, tmp_path: Path) -> None:
    """One person's file has no operator: the next command brings it up to date, with what it holds."""
    (tmp_path / "home").mkdir()
    migrate(f"sqlite:///{tmp_path}/home/audit.db", OLD)
    assert cli("db", "check").returncode == 1
    assert cli("status").returncode == 0
    assert cli("db", "current").stdout == f"{HEAD}\n"


def test_a_newer_schema_serves_as_long_as_it_only_adds(cli: Cli, server: PostgresServer) -> None:
    """In a rolling upgrade an old version may start again; later it must not write into tables it does not know."""
    url = database_of(server, "newer")
    execute(url, "UPDATE alembic_version SET version_num = '9999'")
    assert cli("status", DATABASE_URL=url).returncode == 0  # so far it has only added
    still = cli("db", "check", DATABASE_URL=url)
    assert (still.returncode, f"9999, which still serves this version ({HEAD})" in still.stdout) == (0, True)
    assert cli("db", "upgrade", DATABASE_URL=url).stdout == "the ledger has schema 9999, as before\n"
    execute(url, "UPDATE schema_serves SET oldest = '9999'")
    for command in (("status",), ("db", "upgrade"), ("worker",)):
        told = cli(*command, DATABASE_URL=url, AUDIT_ENGINE="stub", REDIS_URL=NOWHERE, AUDIT_START_WAIT_S="60")
        assert (told.returncode, "upgrade caption-audit" in told.stderr) == (2, True), told.stderr
    assert "upgrade caption-audit" in cli("db", "check", DATABASE_URL=url).stdout


def test_a_database_of_something_else_is_not_touched(cli: Cli, server: PostgresServer, tmp_path: Path) -> None:
    """A slip in a URL must not put our tables beside a shop's."""
    url = database_of(server, "shop", revision=None)
    as_admin(url, "CREATE TABLE customers (id int)")
    as_admin(url, "CREATE TABLE alembic_version (version_num text)")
    as_admin(url, "INSERT INTO alembic_version VALUES ('ae1027a6acf')")
    for command in (("status",), ("db", "upgrade"), ("db", "check")):
        told = cli(*command, DATABASE_URL=url)
        assert (told.returncode, "tables of something else (alembic_version, customers)" in told.stderr) == (2, True)


REFUSALS = {
    "wrong password": ("postgresql://audit:guess-7@{at}/fresh_not", 2, "refuses the user audit or its password"),
    "unknown database": ("postgresql://audit:{password}@{at}/nowhere", 2, "createdb nowhere"),
    "TLS that the server has not": ("postgresql://audit:{password}@{at}/postgres?sslmode=require", 2, "TLS"),
    "option that nobody knows": ("postgresql://audit:{password}@{at}/postgres?colour=red", 2, "DATABASE_URL"),
    "port that is no number": ("postgresql://audit:{password}@127.0.0.1:pw/postgres", 2, "DATABASE_URL"),
    "a driver that is not ours": ("postgresql+psycopg2://audit:{password}@{at}/postgres", 2, "DATABASE_URL must be"),
    "a file that does not open": ("sqlite:////usr", 2, "does not open for writing"),
    "another kind of database": ("mysql://audit:{password}@{at}/postgres", 2, "DATABASE_URL must be"),
    "unknown host": ("postgresql://audit:{password}@no-such-host.invalid/x", 69, "no-such-host.invalid"),
    "refused connection": ("postgresql://audit:{password}@127.0.0.1:1/x", 69, "Connection refused (127.0.0.1:1)"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_wrong_with_the_ledger_is_one_line_with_a_status(
    cli_here: Cli, cli: Cli, server: PostgresServer, tmp_path: Path, name: str
) -> None:
    """Two is for the operator, 69 for the weather; the line names the cause, and never a password."""
    template, status, words = REFUSALS[name]
    url = template.format(password=server.password, at=f"127.0.0.1:{server.port}")
    env = {"DATABASE_URL": url, "AUDIT_ENGINE": "stub", "REDIS_URL": NOWHERE, "AUDIT_START_WAIT_S": "0"}
    manifest = str(small_manifest(tmp_path))
    for arguments in (("db", "upgrade"), ("db", "check"), ("db", "current"), ("status",), ("submit", manifest)):
        told = cli_here(*arguments, **env)
        assert (told.returncode, words in told.stderr) == (status, True), (arguments, told.stderr)
        assert len(told.stderr.splitlines()) == 1, told.stderr
        assert not {server.password, "guess-7"} & set(told.stderr.replace(":", " ").replace("@", " ").split())
    told = cli("worker", **env)
    assert (told.returncode, words in told.stderr.splitlines()[-1]) == (status, True), told.stderr
    assert server.password not in told.stderr


def test_a_server_without_a_free_connection_is_said_to_be_full(cli: Cli, server: PostgresServer) -> None:
    """max_connections is the first thing that a growing fleet meets."""
    url = database_of(server, "full")
    as_admin(url, "CREATE ROLE crowd LOGIN PASSWORD 'crowd' CONNECTION LIMIT 0")
    told = cli("status", DATABASE_URL=login(url, "crowd", "crowd"))
    assert told.returncode == 69
    assert "no connection left" in told.stderr
    assert "max_connections" in told.stderr


def test_a_standby_can_be_asked_and_takes_no_batch(cli: Cli, server: PostgresServer, tmp_path: Path) -> None:
    """After a failover the URL may lead to a read-only server for a while: that passes, and is no bug of ours."""
    url = database_of(server, "standby")
    as_admin(url, "ALTER DATABASE standby SET default_transaction_read_only = on")
    env = {"DATABASE_URL": url, "AUDIT_ENGINE": "stub", "REDIS_URL": NOWHERE}
    assert cli("status", **env).returncode == 0
    told = cli("submit", str(small_manifest(tmp_path)), **env)
    assert told.returncode == 69
    assert "read-only" in told.stderr
    assert len(told.stderr.splitlines()) == 1


def test_a_role_that_may_not_make_tables_is_told_who_may(cli: Cli, server: PostgresServer) -> None:
    """Workers run with a role that cannot change the schema; the owner's role migrates."""
    url = database_of(server, "guarded", revision=None)
    as_admin(url, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    as_admin(url, "CREATE ROLE guest LOGIN PASSWORD 'guest'")
    told = cli("db", "upgrade", DATABASE_URL=login(url, "guest", "guest"))
    assert (told.returncode, "lacks a privilege" in told.stderr) == (2, True), told.stderr
    assert len(told.stderr.splitlines()) == 1
    migrate(url, HEAD)
    told = cli("status", DATABASE_URL=login(url, "guest", "guest"))
    assert (told.returncode, "permission denied for table" in told.stderr) == (2, True), told.stderr


def test_upgrading_waits_for_a_server_that_is_still_starting(
    cli: Cli, environment: dict[str, str], own_postgres: PostgresServer
) -> None:
    """Services of one host start together; the migration must not lose that race."""
    own_postgres.create("late")
    own_postgres.kill()
    told = cli("db", "upgrade", "--wait", "0.5", DATABASE_URL=own_postgres.url("late"))
    assert told.returncode == 69
    command = [*COMMAND, "db", "upgrade", "--wait", "60"]
    env = environment | {"DATABASE_URL": own_postgres.url("late")}
    with Popen(command, env=env, stdout=PIPE, stderr=PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith("waiting: the ledger does not answer: ")
        own_postgres.start()
        output, _ = waiting.communicate(timeout=120)
    assert (waiting.returncode, output) == (0, f"the ledger has schema {HEAD} (was empty)\n")
