"""A ledger that goes away: results are held, nothing is doubled, work goes on when it is back."""

import sqlite3
from pathlib import Path

import pytest

from audit.errors import LedgerUnavailable
from audit.settings import Settings
from db.queries import progress
from tests.conftest import make_settings
from tests.support.manifests import small_manifest
from tests.support.postgres_server import PostgresServer
from tests.support.running import changed, check_promises, finished, ledger, running, submitted
from tests.support.waiting import wait_until

QUICK = {
    "devices": "cpu",
    "cache": False,
    "chunk_pairs": 4,
    "lease_s": 3,
    "pair_limit_s": 2,
    "feed_every_s": 0.2,
    "resend_s": 2,
}


def test_postgresql_killed_and_restarted_doubles_and_loses_nothing(
    own_postgres: PostgresServer, redis_url: str, model_directory: Path, tmp_path: Path
) -> None:
    """The night's batch survives a database that crashes under it."""
    url = own_postgres.url("ledger")
    settings = make_settings(tmp_path, database_url=url, redis_url=redis_url, model=str(model_directory), **QUICK)
    settings = changed(settings, stub_pair_s=0.1)
    batch = submitted(settings, small_manifest(tmp_path, pairs=60))
    with running(settings, tmp_path) as worker:
        with ledger(settings) as database:
            wait_until(lambda: progress(database, batch).judged, timeout_s=60, what="a first commit")
        own_postgres.kill()
        with ledger(settings) as database, pytest.raises(LedgerUnavailable):
            progress(database, batch)
        own_postgres.start()
        assert finished(settings, batch, watch=worker).judged == 60
        assert worker.process.poll() is None
    check_promises(settings, batch)


def test_a_locked_sqlite_file_is_waited_for(sqlite_settings: Settings, tmp_path: Path) -> None:
    """A person's own transaction in the ledger delays the night's work; it does not break it."""
    settings = changed(sqlite_settings, stub_pair_s=0.2, **QUICK)
    batch = submitted(settings, small_manifest(tmp_path, pairs=40))
    with running(settings, tmp_path) as worker:
        with ledger(settings) as database:
            wait_until(lambda: progress(database, batch).judged, timeout_s=60, what="a first commit")
        intruder = sqlite3.connect(settings.home / "audit.db", isolation_level=None)
        intruder.execute("BEGIN IMMEDIATE")
        worker.wait_for("housekeeping waits")  # the busy timeout has run out for somebody
        intruder.execute("ROLLBACK")
        intruder.close()
        assert finished(settings, batch, watch=worker).judged == 40
    check_promises(settings, batch)


def test_a_long_chunk_is_committed_bit_by_bit(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Whoever kills a worker in the middle of 256 pairs must not cost more than a third of a lease of judging.

    Safeguard: outcomes are saved when they are due, though the lease was renewed a moment ago.
    """
    settings = changed(sqlite_settings, stub_pair_s=0.1, **{**QUICK, "chunk_pairs": 60})
    batch = submitted(settings, small_manifest(tmp_path, pairs=60))
    with running(settings, tmp_path) as worker, ledger(settings) as database:
        wait_until(lambda: progress(database, batch).judged, timeout_s=60, what="a first commit")
        assert progress(database, batch).judged < 60
        finished(settings, batch, watch=worker)
    check_promises(settings, batch)


def test_a_whole_batch_is_judged_on_each_database(settings: Settings, tmp_path: Path) -> None:
    """SQLite for one host, PostgreSQL for a fleet: the same promises."""
    quick = changed(settings, **{**QUICK, "slots_per_device": 2})
    batch = submitted(quick, small_manifest(tmp_path, pairs=50))
    with running(quick, tmp_path) as worker, running(quick, tmp_path) as second:
        assert finished(quick, batch, watch=worker).judged == 50
        assert second.process.poll() is None
    check_promises(quick, batch)
