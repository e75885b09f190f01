"""A ledger from a backup that was taken in the middle of a batch, beside a Redis that knows more than it does."""

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
from db.verify import verify_batch
from ops.lost_messages import lost_messages
from tests.conftest import make_settings
from tests.support.manifests import ordered_manifest, ordered_results
from tests.support.postgres_server import PostgresServer
from tests.support.recovery import recovery
from tests.support.running import changed, check_promises, finished, ledger, results, running, submitted, told
from tests.support.waiting import wait_until

PAIRS = 60
LATER = 12
QUICK = {
    "devices": "cpu",
    "cache": False,
    "chunk_pairs": 4,
    "lease_s": 3,
    "pair_limit_s": 2,
    "feed_every_s": 0.2,
    "resend_s": 5,
}


def half_judged(settings: Settings, batch: BatchId) -> None:
    """Until some of the batch is judged, and not all."""
    with ledger(settings) as database:
        wait_until(lambda: progress(database, batch).judged, timeout_s=180, what="a first commit")
        assert progress(database, batch).judged < PAIRS


def lost_batch(settings: Settings, tmp_path: Path) -> tuple[BatchId, Path]:
    """A batch that is submitted after the copy, while no worker runs: its messages wait in Redis."""
    folder = tmp_path / "later"
    folder.mkdir()
    manifest = ordered_manifest(folder, pairs=LATER)
    return submitted(settings, manifest), manifest


def goes_on(settings: Settings, batch: BatchId, lost: BatchId, manifest: Path, tmp_path: Path) -> None:
    """What was judged after the copy is judged again; a batch that the copy never saw is named, and comes back."""
    with ledger(settings) as database:
        assert progress(database, batch).judged < PAIRS
        assert [(each.kind, each.batch) for each in lost_messages(settings, database)] == [
            ("message_without_batch", lost)
        ]
        assert list(verify_batch(database, batch)) == []
    with running(settings, tmp_path) as worker:
        with recovery(30, "a restored ledger beside today's Redis", within_s=300):
            assert finished(settings, batch, watch=worker, timeout_s=240).judged == PAIRS
        dropped = worker.wait_for("chunk not claimable", timeout_s=120)
        assert {(event["batch"], event["reason"]) for event in dropped} == {(lost, "unknown")}
        # The number is given anew: with the same file it is the same batch, and it is judged to its end.
        assert submitted(settings, manifest) == lost
        assert finished(settings, lost, watch=worker, timeout_s=240).judged == LATER
        assert submitted(settings, manifest) == lost, "once more adds nothing"
        worker.stop()
    for known, pairs in ((batch, PAIRS), (lost, LATER)):
        check_promises(settings, known)
        assert results(settings, known) == ordered_results(pairs)
    with ledger(settings) as database:
        assert list(lost_messages(settings, database)) == []


@pytest.mark.long
def test_a_sqlite_backup_taken_under_load_goes_on(sqlite_settings: Settings, tmp_path: Path) -> None:
    """SQLite's own backup, beside a worker that writes; put back as the guide says.

    Safeguard: the ledger alone says what is to be judged; a message for a batch that it does not have is dropped.
    """
    settings = changed(sqlite_settings, stub_pair_s=0.1, **QUICK)
    batch = submitted(settings, ordered_manifest(tmp_path, pairs=PAIRS))
    file, copy = settings.home / "audit.db", tmp_path / "copy.db"
    with running(settings, tmp_path) as worker:
        half_judged(settings, batch)
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        assert finished(settings, batch, watch=worker, timeout_s=240).judged == PAIRS
        worker.stop()
    lost, manifest = lost_batch(settings, tmp_path)
    copy.replace(file)
    for ending in ("-wal", "-shm"):
        Path(f"{file}{ending}").unlink(missing_ok=True)
    goes_on(settings, batch, lost, manifest, tmp_path)


@pytest.mark.long
def test_a_postgresql_dump_taken_under_load_goes_on(
    own_postgres: PostgresServer, redis_url: str, model_directory: Path, tmp_path: Path
) -> None:
    """pg_dump beside a worker that writes, restored into another database, with the same Redis.

    Safeguard: as above.
    """
    if not (own_postgres.binaries / "pg_dump").exists():
        pytest.skip("this PostgreSQL comes without pg_dump")
    url = own_postgres.url("ledger")
    given = {"redis_url": redis_url, "model": str(model_directory), "stub_pair_s": 0.1, **QUICK}
    settings = make_settings(tmp_path, database_url=url, **given)
    batch = submitted(settings, ordered_manifest(tmp_path, pairs=PAIRS))
    with running(settings, tmp_path) as worker:
        half_judged(settings, batch)
        client(own_postgres, "pg_dump", "--format=custom", f"--file={tmp_path}/ledger.dump", "ledger")
        assert finished(settings, batch, watch=worker, timeout_s=240).judged == PAIRS
        worker.stop()
    lost, manifest = lost_batch(settings, tmp_path)
    client(own_postgres, "createdb", "restored")
    restore = ["--dbname=restored", "--exit-on-error", "--single-transaction", f"{tmp_path}/ledger.dump"]
    client(own_postgres, "pg_restore", *restore)
    restored = make_settings(tmp_path, database_url=own_postgres.url("restored"), **given)
    goes_on(restored, batch, lost, manifest, tmp_path)


def test_a_message_of_a_lost_batch_does_no_harm_to_its_namesake(sqlite_settings: Settings, tmp_path: Path) -> None:
    """After a restore the next batch gets the number of a lost one, whose messages still ring.

    Safeguard: a message says only which chunk to look at; the ledger says which pairs are in it, and that none is
    judged twice. More chunks were lost than the new batch has.
    """
    settings = changed(sqlite_settings, **QUICK)
    file, copy = settings.home / "audit.db", tmp_path / "copy.db"
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    lost = submitted(settings, ordered_manifest(tmp_path, pairs=PAIRS))
    copy.replace(file)
    for ending in ("-wal", "-shm"):
        Path(f"{file}{ending}").unlink(missing_ok=True)
    folder = tmp_path / "other"
    folder.mkdir()
    namesake = submitted(settings, ordered_manifest(folder, pairs=10))
    assert namesake == lost
    with ledger(settings) as database:
        without_chunk = {
            each.chunk for each in lost_messages(settings, database) if each.kind == "message_without_chunk"
        }
    assert without_chunk
    assert min(map(int, filter(None, without_chunk))) == 3
    with running(settings, tmp_path) as worker:
        assert finished(settings, namesake, watch=worker, timeout_s=240).judged == 10
        worker.stop()
    check_promises(settings, namesake)
    assert results(settings, namesake) == ordered_results(10)
    assert {row.attempt for row in told(settings, namesake).values()} == {1}


def client(server: PostgresServer, program: str, *arguments: str) -> None:
    """One of PostgreSQL's own programs, connected to the server."""
    parts = urlsplit(server.url("postgres"))
    connection = {"PGHOST": parts.hostname, "PGPORT": str(parts.port), "PGUSER": parts.username}
    environ = {**os.environ, **connection, "PGPASSWORD": server.password}
    subprocess.run([str(server.binaries / program), *arguments], env=environ, check=True, timeout=120)  # type: ignore[arg-type]  # str | None
