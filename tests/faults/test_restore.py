"""A ledger from a backup that was taken in the middle of a batch: workers go on from there."""

import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from audit.pair import BatchId
from audit.settings import Settings
from db.queries import progress
from tests.conftest import make_settings
from tests.support.manifests import small_manifest
from tests.support.postgres_server import PostgresServer
from tests.support.running import changed, check_promises, finished, ledger, results, running, submitted
from tests.support.waiting import wait_until

PAIRS = 60
QUICK = {"devices": "cpu", "cache": False, "chunk_pairs": 4, "lease_s": 3, "pair_limit_s": 2, "feed_every_s": 0.2}


def half_judged(settings: Settings, batch: BatchId) -> None:
    """Until some of the batch is judged, and not all."""
    with ledger(settings) as database:
        wait_until(lambda: progress(database, batch).judged, timeout_s=60, what="a first commit")
        assert progress(database, batch).judged < PAIRS


def goes_on(settings: Settings, batch: BatchId, tmp_path: Path) -> None:
    """What is lost was judged after the copy: it is pending again, and judged."""
    with ledger(settings) as database:
        assert progress(database, batch).judged < PAIRS
    with running(settings, tmp_path) as worker:
        assert finished(settings, batch, watch=worker).judged == PAIRS
        worker.stop()
    check_promises(settings, batch)
    assert len(results(settings, batch)) == PAIRS


def test_a_sqlite_backup_taken_under_load_goes_on(sqlite_settings: Settings, tmp_path: Path) -> None:
    """SQLite's own backup, beside a worker that writes; put back as the guide says."""
    settings = changed(sqlite_settings, stub_pair_s=0.1, **QUICK)
    batch = submitted(settings, small_manifest(tmp_path, pairs=PAIRS))
    file, copy = settings.home / "audit.db", tmp_path / "copy.db"
    with running(settings, tmp_path) as worker:
        half_judged(settings, batch)
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        assert finished(settings, batch, watch=worker).judged == PAIRS
        worker.stop()
    copy.replace(file)
    for ending in ("-wal", "-shm"):
        Path(f"{file}{ending}").unlink(missing_ok=True)
    goes_on(settings, batch, tmp_path)


def test_a_postgresql_dump_taken_under_load_goes_on(
    own_postgres: PostgresServer, redis_url: str, model_directory: Path, tmp_path: Path
) -> None:
    """pg_dump beside a worker that writes, restored into another database, with the same Redis."""
    if not (own_postgres.binaries / "pg_dump").exists():
        pytest.skip("this PostgreSQL comes without pg_dump")
    url = own_postgres.url("ledger")
    given = {"redis_url": redis_url, "model": str(model_directory), "stub_pair_s": 0.1, **QUICK}
    settings = make_settings(tmp_path, database_url=url, **given)
    batch = submitted(settings, small_manifest(tmp_path, pairs=PAIRS))
    with running(settings, tmp_path) as worker:
        half_judged(settings, batch)
        client(own_postgres, "pg_dump", "--format=custom", f"--file={tmp_path}/ledger.dump", "ledger")
        assert finished(settings, batch, watch=worker).judged == PAIRS
        worker.stop()
    client(own_postgres, "createdb", "restored")
    restore = ["--dbname=restored", "--exit-on-error", "--single-transaction", f"{tmp_path}/ledger.dump"]
    client(own_postgres, "pg_restore", *restore)
    goes_on(make_settings(tmp_path, database_url=own_postgres.url("restored"), **given), batch, tmp_path)


def client(server: PostgresServer, program: str, *arguments: str) -> None:
    """One of PostgreSQL's own programs, connected to the server."""
    parts = urlsplit(server.url("postgres"))
    connection = {"PGHOST": parts.hostname, "PGPORT": str(parts.port), "PGUSER": parts.username}
    environ = {**os.environ, **connection, "PGPASSWORD": server.password}
    subprocess.run([str(server.binaries / program), *arguments], env=environ, check=True, timeout=120)  # type: ignore[arg-type]  # str | None
