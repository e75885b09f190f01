"""Clocks of workers that are wrong, or that somebody sets while they run: leases go by the database's clock alone."""

import os
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select

from audit.pair import BatchId
from audit.settings import Settings
from db import tables
from db.queries import progress
from db.workers import seen
from tests.conftest import make_settings
from tests.support.clocks import WrongClock
from tests.support.ledger_sums import UNTROUBLED, chunk_holders, chunk_sums
from tests.support.manifests import ordered_manifest, ordered_results
from tests.support.network_namespace import another_name
from tests.support.recovery import recovery
from tests.support.running import Worker, changed, check_promises, finished, ledger, results, running, submitted, told
from tests.support.waiting import wait_until
from worker.seen import Probe, workers_seen

pytestmark = pytest.mark.long
HOUR_S = 3600
PAIRS = 80


@pytest.fixture
def fleet(postgres_url: str, redis_url: str, model_directory: Path, tmp_path: Path) -> Settings:
    """For two hosts: chunks of twenty seconds, so that Celery has time to give one to a second worker."""
    return make_settings(
        tmp_path,
        database_url=postgres_url,
        redis_url=redis_url,
        model=str(model_directory),
        devices="cpu",
        cache=False,
        chunk_pairs=20,
        lease_s=15,
        pair_limit_s=5,
        feed_every_s=0.5,
        resend_s=5,
        stub_pair_s=1.0,
        log_level="debug",  # says which messages were refused
    )


def elsewhere() -> tuple[str, ...]:
    """A host name of its own, where we may give one: neither worker can look at the other's processes."""
    return tuple(another_name("elsewhere")) if os.geteuid() == 0 else ()


def times_in_the_ledger(settings: Settings, batch: BatchId) -> list[float]:
    """Every time that was written while the batch ran."""
    chunks, outcomes, workers = tables.chunks.c, tables.outcomes.c, tables.workers.c
    asked = (
        select(func.min(outcomes.judged_at), func.max(outcomes.judged_at)).where(outcomes.batch == batch),
        select(func.min(chunks.sent_at), func.max(chunks.sent_at)).where(chunks.batch == batch),
        select(func.min(chunks.done_at), func.max(chunks.done_at)).where(chunks.batch == batch),
        select(func.min(workers.seen_at), func.max(workers.seen_at)),
        select(func.min(workers.started_at), func.max(workers.canary_at)),
    )
    with ledger(settings) as database, database.reading() as connection:
        return [float(value) for each in asked for value in connection.execute(each).one() if value is not None]


def is_well(settings: Settings, *workers: Worker) -> None:
    """What people and health checks see of the workers says that nothing is wrong."""
    found = {worker.pid: worker for worker in workers_seen(settings.home, now=time.time())}
    assert [found[worker.process.pid].wrong(Probe.READY, 60.0) for worker in workers] == [None] * len(workers)
    with ledger(settings) as database:
        told_of = seen(database)
    assert len(told_of) == len(workers)
    assert all(slot.seen_age_s < 60 and slot.up_s < 600 for slot in told_of), told_of
    for worker in workers:
        for event in ("claim taken over", "stuck process killed", "housekeeping failed"):
            assert worker.events(event) == []


@pytest.mark.parametrize("hours", [2, -2])
def test_a_clock_that_is_two_hours_off_changes_nothing(hours: int, fleet: Settings, tmp_path: Path) -> None:
    """A host without NTP would take everybody's leases for ended, or hold its own for ever.

    Safeguard: db_now() in every lease. A clock ahead makes Celery give other workers' messages out again, which the
    claim refuses.
    """
    began = time.time()
    batch = submitted(fleet, ordered_manifest(tmp_path, pairs=PAIRS))
    with running(fleet, tmp_path) as right:
        wait_until(lambda: chunk_holders(fleet, batch), timeout_s=60, what="a chunk in hand")
        off = WrongClock(tmp_path, off_by_s=hours * HOUR_S)
        with (
            running(fleet, tmp_path, before=elsewhere(), LD_PRELOAD=off.preload, CLOCK_FILE=off.file) as wrong,
            recovery(17, f"a batch with a clock {hours:+} h off on one worker of two", within_s=None),
        ):
            wrong.wait_for("worker ready")
            finished(fleet, batch, watch=wrong, timeout_s=240)
            is_well(fleet, right, wrong)
            stamp = wrong.events("worker ready")[0]["timestamp"]
        if hours > 0:
            refused = [event["reason"] for worker in (right, wrong) for event in worker.events("chunk not claimable")]
            assert "held" in refused, "Celery gave no message out twice: the test has shown nothing"
    assert stamp[:13] != time.strftime("%Y-%m-%dT%H", time.gmtime(began)), "the clock was not off"
    assert len({row.worker for row in told(fleet, batch).values()}) == 2
    assert all(began - 60 < written < time.time() + 60 for written in times_in_the_ledger(fleet, batch))
    assert chunk_sums(fleet, batch) == UNTROUBLED
    assert results(fleet, batch) == ordered_results(PAIRS)
    check_promises(fleet, batch)


def test_a_clock_that_jumps_under_a_running_worker_changes_nothing(fleet: Settings, tmp_path: Path) -> None:
    """Somebody sets the clock in the middle of the night: two hours ahead, then two hours back.

    Safeguard: what a worker measures it measures with the monotonic clock; after a jump it trusts no lease for one
    lease, since a machine that slept looks the same.
    """
    quick = changed(fleet, stub_pair_s=0.3)
    began, clock = time.time(), WrongClock(tmp_path, off_by_s=0)
    batch = submitted(quick, ordered_manifest(tmp_path, pairs=PAIRS))
    with running(quick, tmp_path, LD_PRELOAD=clock.preload, CLOCK_FILE=clock.file) as worker, ledger(quick) as database:
        for jump, hours in enumerate((2, -2, 0), start=1):
            wait_until(lambda: progress(database, batch).judged >= 20 * jump, timeout_s=120, what="more pairs")  # noqa: B023 - asked before the loop goes on
            clock.set_to(hours * HOUR_S)
            judged = progress(database, batch).judged
            # The effect on leases is to be none (see the sums below); the next commit comes when it comes.
            with recovery(17, f"clock set to {hours:+} h in the run, until the next commit", within_s=None):
                wait_until(lambda: progress(database, batch).judged > judged, timeout_s=120, what="work to go on")  # noqa: B023 - asked before the loop goes on
            is_well(quick, worker)
        finished(quick, batch, watch=worker)
        shown = {event["timestamp"][:13] for event in worker.events("chunk ended")}
    assert len(shown) > 1, "the clock did not jump"
    assert all(began - 60 < written < time.time() + 60 for written in times_in_the_ledger(quick, batch))
    assert chunk_sums(quick, batch) == UNTROUBLED
    assert results(quick, batch) == ordered_results(PAIRS)
    check_promises(quick, batch)
