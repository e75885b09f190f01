"""Unrelated kills around a pair that kills: the guilty one is named, and nobody else, with real processes."""

import random
from pathlib import Path

import pytest
from sqlalchemy import select

from audit.pair import BatchId
from audit.settings import Settings
from db import tables
from db.engine import Database
from db.queries import progress
from tests.support.manifests import draw, write_csv
from tests.support.running import Worker, changed, check_promises, finished, ledger, results, running, submitted, told
from tests.support.waiting import wait_until

GUILTY = 9
PAIRS = 12


@pytest.fixture
def quick(sqlite_settings: Settings) -> Settings:
    """One slot, one chunk, and a lease that is so long that nothing is committed at full speed."""
    return changed(sqlite_settings, devices="cpu", lease_s=120, feed_every_s=0.2, resend_s=2, chunk_pairs=PAIRS)


def marker(database: Database, batch: BatchId) -> int | None:
    with database.reading() as connection:
        return connection.scalar(select(tables.chunks.c.marker_row).where(tables.chunks.c.batch == batch))


def kill_the_child_at(worker: Worker, database: Database, batch: BatchId, row: int) -> None:
    """SIGKILL from outside while this pair is at hand."""
    wait_until(lambda: marker(database, batch) == row, timeout_s=90, what=f"pair {row} to be at hand{worker.tail()}")
    for child in worker.children():
        child.kill()
    wait_until(lambda: marker(database, batch) != row, timeout_s=60, what=f"the claim to be buried{worker.tail()}")


def test_kills_from_outside_in_the_same_chunk_blame_no_innocent_pair(quick: Settings, tmp_path: Path) -> None:
    """One pair crashes its process; somebody kills the same chunk three times more, twice with the same pair at hand.

    Safeguard: a death is judged by how the process ended (worker/deaths.py); a bare SIGKILL names nobody by itself.
    """
    victim, other = random.Random(7).sample(range(GUILTY), 2)
    captions = [f"stub:sleep=0.5 stub:yes {number}" for number in range(PAIRS)]
    captions[GUILTY] = "stub:segv"
    draw(tmp_path / "red.png")
    rows = [(f"p{number}", "red.png", caption) for number, caption in enumerate(captions)]
    with running(quick, tmp_path) as worker, ledger(quick) as database:
        batch = submitted(quick, write_csv(tmp_path / "pairs.csv", rows))
        for row in sorted((victim, other)):
            kill_the_child_at(worker, database, batch, row)
        kill_the_child_at(worker, database, batch, victim)  # as a suspect now, last and alone
        finished(quick, batch, watch=worker, timeout_s=180)
    assert results(quick, batch) == {f"p{n}": "Yes" for n in range(PAIRS)} | {f"p{GUILTY}": "worker_died"}
    check_promises(quick, batch)


def test_a_pair_that_kills_needs_three_deaths_at_most(quick: Settings, tmp_path: Path) -> None:
    """Every death costs a reload of the model: full speed, carefully, alone, and then it has its failure.

    Safeguard: DEATHS_TO_NAME, and the rows that were in hand at the first death.
    """
    captions = ["stub:yes"] * PAIRS
    captions[GUILTY] = "stub:kill"
    draw(tmp_path / "red.png")
    rows = [(f"p{number}", "red.png", caption) for number, caption in enumerate(captions)]
    with running(quick, tmp_path) as worker:
        batch = submitted(quick, write_csv(tmp_path / "pairs.csv", rows))
        finished(quick, batch, watch=worker, timeout_s=120)
        assert len(worker.events("model proved")) <= 4
    assert told(quick, batch)[f"p{GUILTY}"].attempt == 3
    assert results(quick, batch) == {f"p{n}": "Yes" for n in range(PAIRS)} | {f"p{GUILTY}": "worker_died"}
    with ledger(quick) as database:
        assert progress(database, batch).failed == 1
