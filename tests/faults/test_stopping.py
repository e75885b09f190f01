"""Workers that are told to stop, politely or not: nothing is lost, and what was only in hand is charged nothing."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from audit.pair import BatchId
from audit.settings import Settings
from db import tables
from db.queries import progress
from tests.conftest import make_settings
from tests.support.manifests import draw, write_csv
from tests.support.postgres_server import PostgresServer
from tests.support.recovery import recovery
from tests.support.redis_server import RedisServer
from tests.support.running import Worker, changed, check_promises, finished, ledger, results, running, submitted, told
from tests.support.waiting import wait_until

PATIENT = {"devices": "cpu", "feed_every_s": 0.2, "resend_s": 2, "lease_s": 60, "pair_limit_s": 50, "chunk_pairs": 64}
"""A lease that no test here outlives: what is given back is given back by the one who stops."""


@pytest.fixture
def patient(sqlite_settings: Settings) -> Settings:
    """One slot and long leases."""
    return changed(sqlite_settings, **PATIENT)


def manifest(folder: Path, captions: Sequence[str]) -> Path:
    """One picture, many captions; the stub engine obeys what they say."""
    draw(folder / "red.png")
    rows = [(f"p{number}", "red.png", caption) for number, caption in enumerate(captions)]
    return write_csv(folder / "pairs.csv", rows)


def slow(folder: Path, *, pairs: int, pair_s: float) -> Path:
    """Pairs that take so long each."""
    return manifest(folder, [f"stub:sleep={pair_s} stub:yes {number}" for number in range(pairs)])


def claimed(settings: Settings, batch: BatchId, worker: Worker) -> None:
    """Wait until a process has a chunk of it in hand."""
    with ledger(settings) as database:
        what = f"a claim{worker.tail()}"
        wait_until(lambda: progress(database, batch).chunks.get("running"), timeout_s=60, what=what)


def chunk(settings: Settings, batch: BatchId) -> Mapping[str, Any]:
    """Of the batch's only chunk what a stop may have changed."""
    column = tables.chunks.c
    columns = (column.state, column.attempts, column.deaths, column.marker_row, column.token)
    with ledger(settings) as database, database.reading() as connection:
        return dict(connection.execute(select(*columns).where(column.batch == batch)).mappings().one())


def suspected(settings: Settings) -> int:
    """How many pairs are suspects."""
    with ledger(settings) as database, database.reading() as connection:
        return int(connection.scalar(select(func.count()).select_from(tables.suspects)) or 0)


GIVEN_BACK = {"state": "pending", "attempts": 0, "deaths": 0, "marker_row": None, "token": None}


def test_sigterm_gives_the_rest_back_without_charging_the_attempt(patient: Settings, tmp_path: Path) -> None:
    """A deploy in the middle of a chunk loses nothing and counts as nobody's death.

    Safeguard: children look at the board between two micro-batches, record what is judged and release the rest.
    """
    pairs = 30  # nine seconds: a slow machine stops it in time, too
    batch = submitted(patient, slow(tmp_path, pairs=pairs, pair_s=0.3))
    with running(patient, tmp_path) as worker, ledger(patient) as database:
        claimed(patient, batch, worker)
        with recovery(29, "SIGTERM in the middle of a chunk: the worker has left", within_s=patient.stop_grace_s):
            assert worker.stop() == 0
        half = progress(database, batch)
        assert half.chunks.get("running", 0) == 0
        assert half.judged < pairs
    assert chunk(patient, batch) == GIVEN_BACK
    with running(patient, tmp_path) as worker:
        finished(patient, batch, watch=worker)
    assert {row.attempt for row in told(patient, batch).values()} == {1}
    assert results(patient, batch) == {f"p{number}": "Yes" for number in range(pairs)}
    check_promises(patient, batch)


def test_a_group_kill_with_sigterm_is_a_clean_stop_too(patient: Settings, tmp_path: Path) -> None:
    """Service managers signal every process of the group; children must not die in the middle of a pair.

    Safeguard: the handler that a child sets as each chunk begins (worker/child.py).
    """
    batch = submitted(patient, slow(tmp_path, pairs=30, pair_s=0.3))
    with running(patient, tmp_path) as worker:
        claimed(patient, batch, worker)
        os.killpg(worker.process.pid, signal.SIGTERM)
        assert worker.process.wait(timeout=60) == 0
    assert chunk(patient, batch) == GIVEN_BACK
    with running(patient, tmp_path) as worker:
        finished(patient, batch, watch=worker)
    assert {row.attempt for row in told(patient, batch).values()} == {1}
    check_promises(patient, batch)


@pytest.mark.parametrize("careful", [False, True])
def test_a_pair_that_outlasts_the_grace_period_is_given_back_uncharged(
    patient: Settings, tmp_path: Path, careful: bool
) -> None:
    """The service manager would soon kill us all: a death for the chunk, and in careful mode a suspect without guilt.

    Safeguard: worker/stopping.py kills what still works after AUDIT_STOP_GRACE_S and gives its chunk back.
    """
    short = changed(patient, stop_grace_s=1)
    batch = submitted(short, slow(tmp_path, pairs=1, pair_s=9))
    deaths = int(careful)
    with ledger(short) as database:
        scarred = update(tables.chunks).values(deaths=deaths)  # one death makes the next run a careful one
        database.transact(lambda connection: connection.execute(scarred))
    with running(short, tmp_path) as worker:
        claimed(short, batch, worker)
        if careful:
            wait_until(lambda: chunk(short, batch)["marker_row"] is not None, timeout_s=60, what="a marker")
        with recovery(29, "SIGTERM in the middle of a long pair: the worker has left", within_s=short.stop_grace_s + 5):
            assert worker.stop(timeout_s=45) == 0, worker.tail()
        (ended,) = worker.events("worker process ended")
        assert ended["reason"] == "the grace period is over"
    assert chunk(short, batch) == GIVEN_BACK | {"deaths": deaths}
    assert suspected(short) == 0
    with running(short, tmp_path) as worker:
        finished(short, batch, watch=worker)
    assert {row.attempt for row in told(short, batch).values()} == {1}
    assert results(short, batch) == {"p0": "Yes"}
    check_promises(short, batch)


def test_a_stop_does_not_wait_for_a_model_that_loads(patient: Settings, tmp_path: Path) -> None:
    """Loading holds no chunk: nobody waits minutes for a model that nobody will use.

    Safeguard: worker/stopping.py kills what only loads at once.
    """
    loading = changed(patient, stub_load_s=150, stop_grace_s=100)
    with running(loading, tmp_path) as worker:
        worker.wait_for("slot pinned")
        assert worker.stop(timeout_s=60) == 0, worker.tail()
        # Celery may have begun a replacement before it was told: that one, too, is not waited for.
        assert {event["reason"] for event in worker.events("worker process ended")} == {"it only loads"}


def test_a_kill_at_the_end_of_somebody_elses_grace_period_loses_nothing(patient: Settings, tmp_path: Path) -> None:
    """A service manager with less patience than we were told of: the attempt is charged, and nothing else happens.

    Safeguard: the holder is proved dead, and its chunk swept, by the next worker.
    """
    batch = submitted(patient, slow(tmp_path, pairs=2, pair_s=4))
    with running(patient, tmp_path) as worker, ledger(patient) as database:
        claimed(patient, batch, worker)
        worker.process.send_signal(signal.SIGTERM)
        worker.kill()
        with (
            recovery(29, "SIGTERM, then SIGKILL: a fresh worker works", within_s=30),
            running(patient, tmp_path) as next_,
        ):
            wait_until(lambda: progress(database, batch).judged, timeout_s=60, what="a commit after the kill")
            finished(patient, batch, watch=next_)
    assert results(patient, batch) == {f"p{number}": "Yes" for number in range(2)}
    check_promises(patient, batch)


TERM, INT, QUIT = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT


@pytest.mark.parametrize(
    ("signals", "status"),
    [((TERM, TERM, TERM), 0), ((INT,), 130), ((INT, INT), 130), ((QUIT,), 0), ((TERM, QUIT), 0)],
    ids=["TERM again", "Ctrl-C", "Ctrl-C again", "QUIT", "TERM, then QUIT"],
)
def test_whoever_is_impatient_loses_nothing(
    patient: Settings, tmp_path: Path, signals: tuple[signal.Signals, ...], status: int
) -> None:
    """A second Ctrl-C, or SIGQUIT, ends what is in hand at once; it is given back, and no attempt is charged.

    Safeguard: worker/stopping.py knows no grace once Celery is told to stop cold.
    """
    cold = QUIT in signals or signals == (INT, INT)
    pair_s = 12 if cold else 1
    batch = submitted(patient, slow(tmp_path, pairs=1 if cold else 3, pair_s=pair_s))
    with running(patient, tmp_path) as worker:
        claimed(patient, batch, worker)
        worker.wait_for("worker ready")
        began = time.monotonic()
        for number in signals:
            worker.process.send_signal(number)
            time.sleep(0.3)  # two signals at the same moment would be one
        assert worker.process.wait(timeout=60) == status, worker.tail()
        if cold:
            assert time.monotonic() - began < pair_s, "it waited for the pair"
    left = chunk(patient, batch)
    assert left == GIVEN_BACK | {"state": left["state"]}
    assert left["state"] in ("pending", "sent"), "a last round of housekeeping may have rung for it"
    with running(patient, tmp_path) as worker:
        finished(patient, batch, watch=worker, timeout_s=120)
    assert {row.attempt for row in told(patient, batch).values()} == {1}
    check_promises(patient, batch)


def test_after_a_power_loss_of_everything_the_batch_goes_on(
    own_postgres: PostgresServer, own_redis: RedisServer, model_directory: Path, tmp_path: Path
) -> None:
    """Workers, Redis and PostgreSQL die at once; whoever starts them again need do nothing else.

    Safeguard: what is committed is all there is to know; chunks of dead holders are swept, and sent again.
    """
    settings = make_settings(
        tmp_path,
        database_url=own_postgres.url("ledger"),
        redis_url=own_redis.url,
        model=str(model_directory),
        **PATIENT | {"chunk_pairs": 4, "lease_s": 6, "pair_limit_s": 5},
    )
    batch = submitted(settings, slow(tmp_path, pairs=24, pair_s=0.5))
    with running(settings, tmp_path) as worker, running(settings, tmp_path) as other, ledger(settings) as database:
        wait_until(lambda: progress(database, batch).judged, timeout_s=60, what=f"a commit{worker.tail()}")
        worker.kill()
        own_redis.kill()
        own_postgres.kill()
        other.kill()
    own_postgres.start()
    own_redis.start()
    with ledger(settings) as database:
        before = progress(database, batch).judged
        assert 0 < before < 24
        with recovery(2, "SIGKILL of workers, Redis and PostgreSQL", within_s=30), running(settings, tmp_path) as fresh:
            what = f"a commit after the restart{fresh.tail()}"
            wait_until(lambda: progress(database, batch).judged > before, timeout_s=90, what=what)
            finished(settings, batch, watch=fresh, timeout_s=120)
    assert results(settings, batch) == {f"p{number}": "Yes" for number in range(24)}
    check_promises(settings, batch)
