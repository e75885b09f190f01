"""Producers that die, and producers that race: real processes on real databases."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select

from audit.errors import LedgerUnavailable
from audit.message import Lane, queue_name
from audit.settings import Settings
from db.engine import Database, open_database
from db.tables import batches, chunks, outcomes, pairs
from producer import submit
from tests.support.manifests import write_csv
from tests.support.postgres_server import PostgresServer
from tests.support.processes import python
from tests.support.redis_lists import waiting_in
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

SUBMIT = """
import json, sys, time, producer.registering
from producer import submit
producer.registering.SLICE_ROWS = 256
stop_at = int(sys.argv[2])
def told(done, rows):
    print(done, flush=True)
    if done == stop_at:
        time.sleep(600)
handle = submit(sys.argv[1], on_progress=told)
print(json.dumps({"batch": handle.batch, "new": handle.new, "pairs": handle.pairs, "failed": handle.failed}))
"""
NEVER = "-1"
ROWS = 2000


def big_manifest(folder: Path) -> Path:
    """ROWS rows: every tenth repeats its predecessor, every 100th is ragged."""
    lines = []
    for n in range(ROWS):
        shown = n - 1 if n % 10 == 9 else n
        lines.append((f"p{shown}", "a.png") if n % 100 == 0 else (f"p{shown}", "a.png", f"caption {shown}"))
    return write_csv(folder / "big.csv", lines)


def check_complete(database: Database) -> None:
    """Each pair once, each row under one chunk, and submitted = failures + waiting."""
    with database.reading() as connection:
        kept = [row for (row,) in connection.execute(select(pairs.c.row).order_by(pairs.c.row))]
        failed = list(connection.scalars(select(outcomes.c.row).order_by(outcomes.c.row)))
        ranges = connection.execute(select(chunks.c.first_row, chunks.c.last_row).order_by(chunks.c.number)).all()
        totals = connection.execute(select(func.sum(chunks.c.pairs), func.sum(chunks.c.failed))).one()
        assert list(connection.scalars(select(batches.c.state))) == ["open"]
    assert kept == [n for n in range(ROWS) if n % 10 != 9]
    assert failed == list(range(0, ROWS, 100))
    assert [row for first, last in ranges for row in range(first, last + 1)] == list(range(ROWS))
    assert tuple(totals) == (len(kept), len(failed))


def test_a_producer_killed_again_and_again_is_continued_not_repeated(
    tmp_path: Path, settings: Settings, database: Database
) -> None:
    """Whoever submits ten million rows meets a kill -9 one day, and runs the same command again."""
    settings = settings.model_copy(update={"chunk_pairs": 32})
    path = str(big_manifest(tmp_path))
    stopped = python(SUBMIT, path, "512", settings=settings)
    assert stopped.stdout is not None
    assert [int(stopped.stdout.readline()) for _ in range(2)] == [256, 512]
    stopped.send_signal(signal.SIGKILL)  # between two slices
    stopped.communicate(timeout=30)
    with database.reading() as connection:
        assert list(connection.scalars(select(batches.c.state))) == ["registering"]
    running = python(SUBMIT, path, NEVER, settings=settings)
    assert running.stdout is not None
    assert int(running.stdout.readline()) == 768
    running.send_signal(signal.SIGKILL)  # wherever it is now, perhaps in the middle of a transaction
    running.communicate(timeout=30)
    out, err = python(SUBMIT, path, NEVER, settings=settings).communicate(timeout=60)
    told = json.loads(out.splitlines()[-1])
    assert err == ""
    assert (told["batch"], told["pairs"], told["failed"]) == (1, 1800, 20)
    check_complete(database)


def test_two_producers_of_one_file_make_one_batch(tmp_path: Path, settings: Settings, database: Database) -> None:
    """A nightly job started twice: both succeed, one of them is told that it was not the first."""
    settings = settings.model_copy(update={"chunk_pairs": 32})
    path = str(big_manifest(tmp_path))
    processes = [python(SUBMIT, path, NEVER, settings=settings) for _ in range(2)]
    ends = [process.communicate(timeout=120) for process in processes]
    assert [err for _, err in ends] == ["", ""]
    told = [json.loads(out.splitlines()[-1]) for out, _ in ends]
    assert sorted(one["new"] for one in told) == [False, True]
    assert [(one["pairs"], one["failed"]) for one in told] == [(1800, 20)] * 2
    assert len({one["batch"] for one in told}) == 1  # which number is the sequence's business: it may skip one
    check_complete(database)


def test_a_producer_killed_between_commit_and_ringing_loses_nothing(
    tmp_path: Path, sqlite_settings: Settings, redis_server: RedisServer, silent_port: int
) -> None:
    """The chunks are marked as sent and no message exists: the feed sends them again."""
    settings = sqlite_settings.model_copy(update={"resend_s": 0.2})
    path = big_manifest(tmp_path)
    hanging = Settings.model_validate({**settings.model_dump(), "redis_url": f"redis://127.0.0.1:{silent_port}/0"})
    database = open_database(settings.ledger_url)
    process = python(SUBMIT, str(path), NEVER, settings=hanging)
    wait_until(lambda: states(database) == {"sent"}, timeout_s=30, what="the producer to be ringing")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)

    def messages() -> bool:
        submit(path, settings=settings).close()
        with redis_server.client() as client:
            return bool(waiting_in(client, queue_name(Lane.BULK, settings.model_name)))

    wait_until(messages, timeout_s=30, what="the messages to be sent again")
    check_complete(database)
    database.close()


def states(database: Database) -> set[str]:
    """States of the chunks of open batches."""
    opened = select(chunks.c.state).join(batches, batches.c.id == chunks.c.batch).where(batches.c.state == "open")
    with database.reading() as connection:
        return set(connection.scalars(opened))


def test_a_ledger_killed_in_the_middle_is_said_so_and_the_batch_is_continued(
    tmp_path: Path, own_postgres: PostgresServer, redis_url: str, model_directory: Path
) -> None:
    """Exit status 69 with nothing claimable; after the restart the same command goes on where it stopped."""
    fields = {"home": tmp_path / "home", "database_url": own_postgres.url("ledger"), "redis_url": redis_url}
    settings = Settings.model_validate({**fields, "model": str(model_directory)})
    path = big_manifest(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("producer.registering.SLICE_ROWS", 256)
        with pytest.raises(LedgerUnavailable):
            submit(path, settings=settings, on_progress=lambda _, __: own_postgres.kill())
    own_postgres.start()
    database = open_database(settings.ledger_url)
    assert states(database) == set()
    seen: list[int] = []
    with submit(path, settings=settings, on_progress=lambda done, _: seen.append(done)) as handle:
        assert (handle.new, handle.pairs, seen) == (True, 1800, [ROWS])
    check_complete(database)
    database.close()


def test_waiting_outlives_a_restart_of_the_ledger(
    tmp_path: Path, own_postgres: PostgresServer, redis_url: str, model_directory: Path
) -> None:
    """A program that waits for a night's work must not die of a minute's maintenance."""
    fields = {"home": tmp_path / "home", "database_url": own_postgres.url("ledger"), "redis_url": redis_url}
    settings = Settings.model_validate({**fields, "model": str(model_directory)})
    with submit(big_manifest(tmp_path), settings=settings) as handle, ThreadPoolExecutor(1) as pool:
        own_postgres.kill()
        waiting = pool.submit(handle.wait, timeout_s=60, poll_s=0.05)
        with pytest.raises(LedgerUnavailable):
            handle.progress()
        own_postgres.start()
        handle.cancel()
        assert waiting.result(timeout=60).state == "cancelled"
