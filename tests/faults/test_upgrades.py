"""Two versions of the code on one ledger and one Redis: a rolling upgrade in the middle of a batch."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from audit.message import Lane, queue_name
from audit.pair import BatchId
from audit.settings import Settings
from db import tables
from db.queries import progress
from db.retry import retry_failures
from producer import submit
from tests.conftest import fresh_database, make_settings
from tests.support.manifests import draw, small_manifest, write_csv
from tests.support.old_code import command, unpacked
from tests.support.recovery import recovery
from tests.support.redis_server import RedisServer
from tests.support.running import (
    Worker,
    changed,
    check_promises,
    finished,
    ledger,
    results,
    running,
    submitted,
    told,
)
from tests.support.waiting import wait_until

PAIRS = 240


@pytest.fixture(scope="session")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of schema 0002."""
    return unpacked(tmp_path_factory.mktemp("old-code"))


@pytest.fixture(params=["sqlite", "postgresql"])
def fleet(
    request: pytest.FixtureRequest, tmp_path: Path, redis_url: str, model_directory: Path, old_code: Path
) -> Iterator[Settings]:
    """Settings of a ledger that the old code's own migrations have made; leases are long, since nobody is to die."""
    fields = {"redis_url": redis_url, "model": str(model_directory), "devices": "cpu", "cache": False}
    fields |= {"chunk_pairs": 4, "feed_every_s": 0.2, "resend_s": 2}
    if request.param == "sqlite":
        settings = make_settings(tmp_path, **fields)
        command("db", "upgrade", settings=settings, code=old_code)
        yield settings
        return
    with fresh_database(request.getfixturevalue("postgres_admin"), template="template1") as url:
        settings = make_settings(tmp_path, database_url=url, **fields)
        command("db", "upgrade", settings=settings, code=old_code)
        yield settings


def judged_by(settings: Settings, batch: BatchId, worker: Worker) -> bool:
    """Whether an outcome names this worker."""
    return any(f"caption-audit-{worker.process.pid}@" in row.worker for row in told(settings, batch).values())


def check_quiet(settings: Settings, batch: BatchId, *workers: Worker) -> None:
    """Everything was judged at its first attempt, and nobody has complained."""
    assert {row.attempt for row in told(settings, batch).values()} == {1}
    assert set(results(settings, batch).values()) <= {"Yes", "No", "Maybe"}
    with ledger(settings) as database, database.reading() as connection:
        chunks = tables.chunks.c
        sums = select(func.sum(chunks.deaths), func.sum(chunks.fenced)).where(chunks.batch == batch)
        assert tuple(connection.execute(sums).one()) == (0, 0)
    for worker in workers:
        assert "Traceback" not in worker.tail()
        assert [line for line in worker.lines() if line.get("level") in ("error", "critical")] == []
    check_promises(settings, batch)


@pytest.mark.long
def test_a_batch_that_is_migrated_under_two_versions_notices_nothing(
    fleet: Settings, old_code: Path, tmp_path: Path
) -> None:
    """Who must stop a fleet for an upgrade puts it off, until it is urgent.

    Safeguard: migrations only add, with defaults that old code need not name; a schema says which code it still serves.
    """
    slow = changed(fleet, stub_pair_s=0.1)
    manifest = small_manifest(tmp_path, pairs=PAIRS)
    batch = BatchId(json.loads(command("submit", str(manifest), "--json", settings=slow, code=old_code))["batch"])
    with running(slow, tmp_path, code=old_code) as old:
        old.wait_for("chunk ended", count=2)
        with recovery(31, "the migration, until the next chunk of the old worker has ended", within_s=0):
            if "postgresql" in slow.ledger_url:  # a SQLite ledger upgrades itself when the new worker comes
                assert "schema 0004 (was 0002)" in command("db", "upgrade", settings=slow)
            old.wait_for("chunk ended", count=len(old.events("chunk ended")) + 1)
        with running(slow, tmp_path) as new:
            new.wait_for("chunk ended", count=2)
            with ledger(slow) as database:
                assert not progress(database, batch).finished
            assert finished(slow, batch, watch=new).judged == PAIRS
            assert judged_by(slow, batch, old)
            assert judged_by(slow, batch, new)
            check_quiet(slow, batch, old, new)

            later = submit(manifest, settings=slow, again=True).batch
            assert finished(slow, later, watch=old).judged == PAIRS
            check_quiet(slow, later, old, new)
            assert new.stop() == 0
        assert old.stop() == 0


@pytest.mark.long
def test_an_old_worker_that_starts_after_the_migration_serves_on(
    fleet: Settings, old_code: Path, tmp_path: Path
) -> None:
    """In the middle of an upgrade an old worker is restarted by its supervisor, or the upgrade is taken back.

    Safeguard: the schema's own word on the oldest code that it serves.
    """
    command("db", "upgrade", settings=fleet)
    batch = submitted(fleet, small_manifest(tmp_path, pairs=20))
    with running(fleet, tmp_path, code=old_code) as old:
        assert finished(fleet, batch, watch=old).judged == 20
        check_quiet(fleet, batch, old)
        assert old.stop() == 0


@pytest.mark.long
def test_a_retry_that_an_old_worker_passes_over_is_done_by_a_new_one(
    fleet: Settings, old_code: Path, tmp_path: Path
) -> None:
    """An old worker finds an outcome for each pair and ends the chunk: the retry must not be forgotten with it.

    Safeguard: the sweep revives chunks that are done and still hold retries.
    """
    command("db", "upgrade", settings=fleet)
    draw(tmp_path / "red.png")
    pictures = ["red.png", "late.png", "red.png", "red.png"]
    rows = [(f"p{number}", picture, f"stub:yes {number}") for number, picture in enumerate(pictures)]
    batch = submitted(fleet, write_csv(tmp_path / "pairs.csv", rows))
    with running(fleet, tmp_path, code=old_code) as old, ledger(fleet) as database:

        def chunk() -> tuple[str, int]:
            with database.reading() as connection:
                waiting = connection.scalar(select(func.count()).select_from(tables.retries))
                return str(connection.scalar(select(tables.chunks.c.state))), waiting or 0

        assert finished(fleet, batch, watch=old).failed == 1
        assert results(fleet, batch)["p1"] == "file_missing"
        draw(tmp_path / "late.png")
        assert retry_failures(database, batch) == 1
        wait_until(lambda: chunk() == ("done", 1), timeout_s=60, what=f"the old worker to pass it over{old.tail()}")
        with running(fleet, tmp_path) as new:
            wait_until(lambda: chunk() == ("done", 0), timeout_s=90, what=f"the retry to be done{new.tail()}")
            assert judged_by(fleet, batch, new)
    assert results(fleet, batch) == {f"p{number}": "Yes" for number in range(4)}
    check_promises(fleet, batch)


def test_messages_and_batches_of_other_wire_versions_are_left_for_those_who_know_them(
    sqlite_settings: Settings, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Version 2 and version 0 wait in queues of their own; one that got lost among ours costs its chunk nothing.

    Safeguard: the version is in the queue's name and in the batch's row, and a claim looks at it.
    """
    settings = changed(sqlite_settings, devices="cpu", chunk_pairs=4, feed_every_s=0.2, resend_s=0.5)
    queues = [queue_name(Lane.BULK, settings.model_name, wire_version=version) for version in (0, 2)]
    theirs = submit(small_manifest(tmp_path, name="theirs.csv"), settings=settings).batch
    with ledger(settings) as database, redis_server.client() as client:
        version = update(tables.batches).where(tables.batches.c.id == theirs)
        database.transact(lambda connection: connection.execute(version.values(wire_version=2)))  # rung on our queue
        for queue in queues:
            client.lpush(queue, "from another time")
        ours = submit(small_manifest(tmp_path), settings=settings, again=True, name="ours").batch
        with running(settings, tmp_path) as worker:
            assert finished(settings, ours, watch=worker).judged == 8
            assert [client.lrange(queue, 0, -1) for queue in queues] == [[b"from another time"]] * 2
            with database.reading() as connection:
                chunks = tables.chunks.c
                touched = select(chunks.attempts, chunks.state).where(chunks.batch == theirs)
                assert {row.attempts for row in connection.execute(touched)} == {0}
                assert {row.state for row in connection.execute(touched)} <= {"pending", "sent"}
            with recovery(19, "batches of a version, from when somebody knows it", within_s=0):
                database.transact(lambda connection: connection.execute(version.values(wire_version=1)))
                assert finished(settings, theirs, watch=worker).judged == 8
    for batch in (ours, theirs):
        check_promises(settings, batch)
