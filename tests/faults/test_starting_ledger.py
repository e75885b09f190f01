"""Workers whose PostgreSQL is not ready for them yet, or lets them do no more than they must."""

import re
from pathlib import Path

import pytest
from sqlalchemy import text

from audit.errors import LedgerRefused
from audit.settings import Settings
from db.engine import open_database
from db.queries import progress
from db.schema import alembic_config, upgrade
from tests.conftest import make_settings
from tests.support.manifests import small_manifest
from tests.support.postgres_server import PostgresServer
from tests.support.running import ROOT, changed, check_promises, finished, ledger, running, submitted
from tests.support.sql_sessions import as_admin, driver_url
from tests.support.waiting import wait_until

OLD = "0001"
GUIDE = ROOT / "docs" / "postgresql.md"


def told_to_run(number: int) -> list[str]:
    """The statements of the guide's SQL block of that number."""
    block = re.findall(r"```sql\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)[number]
    return [statement for statement in str(block).split(";\n") if statement.strip()]


@pytest.fixture
def fleet(own_postgres: PostgresServer, redis_url: str, model_directory: Path, tmp_path: Path) -> Settings:
    """A worker's settings on a PostgreSQL that the test may stop."""
    fields = {"database_url": own_postgres.url("ledger"), "redis_url": redis_url, "model": str(model_directory)}
    return make_settings(tmp_path, **fields, devices="cpu", feed_every_s=0.2, chunk_pairs=4)


def test_a_worker_waits_for_a_database_that_is_still_starting(
    fleet: Settings, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """Services of one host start together, in no order: the worker says once what it waits for, and goes on."""
    batch = submitted(fleet, small_manifest(tmp_path))
    own_postgres.kill()
    with running(fleet, tmp_path) as worker:
        worker.wait_for("worker waits for its ledger")
        own_postgres.start()
        assert finished(fleet, batch, watch=worker).judged == 8
        assert len(worker.events("worker waits for its ledger")) <= 2  # refused, then perhaps `starting up`
    check_promises(fleet, batch)


def test_a_worker_leaves_with_69_when_no_database_came(
    fleet: Settings, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """The waiting has a bound: after it somebody else decides what to do with a worker that cannot work."""
    own_postgres.kill()
    with running(changed(fleet, start_wait_s=1), tmp_path) as worker:
        assert worker.process.wait(timeout=60) == 69
        assert "the ledger does not answer" in worker.tail().splitlines()[-1]


def test_a_worker_waits_for_the_migration_of_its_ledger(
    fleet: Settings, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """A deploy starts the migration and the new workers together; whoever is first must not matter."""
    from alembic import command

    own_postgres.create("older")
    older = changed(fleet, database_url=own_postgres.url("older"))
    with ledger(older) as database:
        database.transact(lambda connection: command.upgrade(alembic_config(connection), OLD))
        with running(older, tmp_path) as worker:
            [waits] = worker.wait_for("worker waits for its ledger")
            assert "caption-audit db upgrade" in waits["reason"]
            upgrade(database)
            worker.wait_for("model proved")
        impatient = changed(older, start_wait_s=0)
        database.transact(
            lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        )
        with running(impatient, tmp_path) as worker:
            assert worker.process.wait(timeout=60) == 2


def test_a_role_that_may_only_read_and_write_rows_is_enough_for_a_batch(
    fleet: Settings, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    """Least privilege, as the guide tells it: a worker that somebody took over must not drop tables."""
    for statement in told_to_run(0):
        as_admin(own_postgres.url("postgres"), statement)
    for statement in told_to_run(1):
        as_admin(own_postgres.url("audit"), statement)
    login = f"audit:{own_postgres.password}"
    owner = own_postgres.url("audit").replace(login, "audit_owner:CHANGE-ME-1")
    url = own_postgres.url("audit").replace(login, "audit_judge:CHANGE-ME-2")
    with ledger(changed(fleet, database_url=owner)) as database:
        upgrade(database)
    guarded = changed(fleet, database_url=url, max_tasks_per_child=1)
    batch = submitted(guarded, small_manifest(tmp_path, pairs=30))
    with running(guarded, tmp_path) as worker:
        with ledger(guarded) as database:
            wait_until(lambda: progress(database, batch).judged, timeout_s=60, what="a first commit")
            for child in worker.children():
                child.kill()  # burying a holder needs no other privilege
        assert finished(guarded, batch, watch=worker).judged == 30
        assert worker.events("housekeeping failed") == []
    check_promises(guarded, batch)
    database = open_database(driver_url(url))
    with pytest.raises(LedgerRefused, match="must be owner"):
        database.transact(lambda connection: connection.execute(text("DROP TABLE outcomes")))
    database.close()
