"""One tenant submits very much, another very little; and interactive beside bulk work. Counted in pairs."""

from pathlib import Path

import pytest
from sqlalchemy import func, select

from audit.message import Lane
from audit.pair import BatchId
from audit.settings import Settings
from db import tables
from db.cancel import cancel_batch
from db.queries import progress
from producer import submit
from tests.support.manifests import small_manifest
from tests.support.recovery import recovery
from tests.support.running import Worker, changed, check_promises, finished, ledger, running, told
from tests.support.waiting import wait_until

CHUNK = 250


@pytest.fixture
def shop(sqlite_settings: Settings) -> Settings:
    """One slot; a chunk takes 2.5 s, and sixteen of them wait in Redis."""
    return changed(
        sqlite_settings,
        devices="cpu",
        chunk_pairs=CHUNK,
        micro_batch=10,
        stub_pair_s=0.01,
        feed_every_s=0.2,
        feed_chunks_per_slot=16,
        yield_s=0,
        lease_s=6,
        pair_limit_s=5,
        cache=False,
    )


def given(settings: Settings, manifest: Path, *, tenant: str, lane: Lane = Lane.BULK) -> BatchId:
    """Submit as somebody, to a lane."""
    return submit(manifest, settings=settings, tenant=tenant, lane=lane).batch


def started(settings: Settings, batch: BatchId, worker: Worker) -> None:
    """Wait for the first committed pairs."""
    with ledger(settings) as database:
        wait_until(lambda: progress(database, batch).judged, timeout_s=90, what=f"a first commit{worker.tail()}")


def judged_before_end_of(settings: Settings, other: BatchId, *, since: BatchId, until: BatchId) -> int:
    """Pairs of the other batch that were judged from when `since` was opened until `until` was finished."""
    outcomes, batches = tables.outcomes.c, tables.batches.c
    with ledger(settings) as database, database.reading() as connection:
        begin = connection.scalar(select(batches.opened_at).where(batches.id == since))
        end = connection.scalar(select(func.max(outcomes.judged_at)).where(outcomes.batch == until))
        found = select(func.count()).where(outcomes.batch == other, outcomes.judged_at.between(begin, end))
        return int(connection.scalar(found) or 0)


def over(settings: Settings, worker: Worker, *batches: BatchId) -> None:
    """End what is left, wait for what is still being recorded, and check that nothing was lost on the way."""
    with ledger(settings) as database:
        for batch in batches:
            cancel_batch(database, batch)
    worker.stop()
    for batch in batches:
        check_promises(settings, batch)
        assert {row.attempt for row in told(settings, batch).values()} <= {1}


@pytest.mark.parametrize("lane", list(Lane))
def test_a_small_batch_does_not_wait_for_a_large_one(shop: Settings, tmp_path: Path, lane: Lane) -> None:
    """A hundred pairs beside twenty thousand of somebody else, in the same lane and in the interactive one.

    Safeguard: a tenant with nothing under way goes ahead of the window (the same lane); the order in which queues are
    emptied, by rank and lane (the other).
    """
    large, small = small_manifest(tmp_path, pairs=20_000), small_manifest(tmp_path, pairs=100, name="small.csv")
    big = given(shop, large, tenant="big")
    with running(shop, tmp_path) as worker:
        started(shop, big, worker)
        with recovery(32, f"a hundred pairs beside many of another tenant, {lane}", within_s=None):
            few = given(shop, small, tenant="small", lane=lane)
            finished(shop, few, watch=worker)
        meanwhile = judged_before_end_of(shop, big, since=few, until=few)
        over(shop, worker, big, few)
    # What is in hand, and at worst a few more until it is fed: not the sixteen chunks that wait in Redis.
    assert meanwhile <= 6 * CHUNK


def test_a_long_chunk_gives_way_to_a_small_batch(shop: Settings, tmp_path: Path) -> None:
    """A chunk of minutes must not make another tenant's hundred pairs wait for its end.

    Safeguard: the slot is asked to give the chunk back between two micro-batches; nobody is charged an attempt.
    """
    long = changed(shop, chunk_pairs=4000, yield_s=0.5)
    large, small = small_manifest(tmp_path, pairs=20_000), small_manifest(tmp_path, pairs=100, name="small.csv")
    big = given(long, large, tenant="big")
    with running(long, tmp_path) as worker:
        started(long, big, worker)
        few = given(long, small, tenant="small")
        finished(long, few, watch=worker)
        meanwhile = judged_before_end_of(long, big, since=few, until=few)
        asked = worker.events("chunk asked to give way")
        given_back = progress_of(long, big)
        over(long, worker, big, few)
    assert meanwhile < 3000
    assert [(event["batch"], event["chunk"]) for event in asked] == [(big, 0)]
    assert given_back > 0


def progress_of(settings: Settings, batch: BatchId) -> int:
    """Pairs of the batch that have an outcome."""
    with ledger(settings) as database:
        return progress(database, batch).judged


def test_bulk_gets_a_fifth_of_the_work_beside_interactive_batches(shop: Settings, tmp_path: Path) -> None:
    """Interactive messages are always taken first; yet bulk goes on.

    Safeguard: interactive pairs that are sent earn the bulk lane credit, which is spent at the first rank.
    """
    quick = changed(shop, chunk_pairs=50, feed_chunks_per_slot=4, stub_pair_s=0.004)
    bulk = given(quick, small_manifest(tmp_path, pairs=20_000), tenant="big")
    batches = [
        given(quick, small_manifest(tmp_path, pairs=250 + number, name=f"{number}.csv"), tenant="quick", lane=lane)
        for number, lane in enumerate([Lane.INTERACTIVE] * 6)
    ]
    with running(quick, tmp_path) as worker:
        for batch in batches:
            finished(quick, batch, watch=worker)
        interactive = sum(progress_of(quick, batch) for batch in batches)
        share = judged_before_end_of(quick, bulk, since=bulk, until=batches[-1])
        over(quick, worker, bulk, *batches)
    # A chunk may be under way at the end.
    assert (share + 50) / (share + 50 + interactive) >= 0.2
    assert share < interactive
