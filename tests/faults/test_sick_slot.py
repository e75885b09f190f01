"""A slot whose processes die one after the other: it must not charge the whole backlog with its deaths."""

from pathlib import Path

import pytest
from sqlalchemy import select

from audit.pair import BatchId
from audit.settings import Settings
from db import tables
from tests.support.manifests import small_manifest
from tests.support.running import ROOT, changed, check_promises, finished, ledger, results, running, submitted

PAIRS, CHUNK = 160, 8
QUICK = """
import worker.sick as sick
sick.FIRST_WAIT_S, sick.LONGEST_WAIT_S = 0.1, 0.5
"""


@pytest.fixture
def sick(sqlite_settings: Settings) -> Settings:
    """Slot 0 kills whoever judges there."""
    return changed(
        sqlite_settings,
        devices="cpu",
        feed_every_s=0.2,
        resend_s=2,
        chunk_pairs=CHUNK,
        micro_batch=4,
        stub_sick_slot=0,
        stub_pair_s=0.05,
        cache=False,
    )


@pytest.fixture
def impatient(tmp_path: Path) -> str:
    """PYTHONPATH with which a doubted slot waits for half a second at most."""
    folder = tmp_path / "hook"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(QUICK)
    return f"{folder}:{ROOT}"


def hurt(settings: Settings, batch: BatchId) -> tuple[int, int]:
    """How many chunks and how many pairs have been charged with a death."""
    of_chunks = select(tables.chunks.c.number).where(tables.chunks.c.batch == batch, tables.chunks.c.deaths > 0)
    with ledger(settings) as database, database.reading() as connection:
        return len(connection.execute(of_chunks).all()), len(connection.execute(select(tables.suspects)).all())


def test_a_healthy_slot_judges_what_a_sick_one_would_park(sick: Settings, tmp_path: Path, impatient: str) -> None:
    """One bad GPU of eight: a chunk or two are hurt, then it has to prove itself again, at the size that it works with.

    Safeguard: deaths in a row of a slot (worker/sick.py); without it every chunk is charged, and many are parked.
    """
    two = changed(sick, slots_per_device=2)
    batch = submitted(two, small_manifest(tmp_path, pairs=PAIRS))
    with running(two, tmp_path, PYTHONPATH=impatient) as worker:
        finished(two, batch, watch=worker)
        (out,) = worker.wait_for("slot is out")
        assert (out["slot"], out["level"]) == (0, "critical")
        assert worker.process.poll() is None, "the other slot goes on"
        assert worker.events("chunk parked") == []
        again = submitted(two, small_manifest(tmp_path, pairs=CHUNK, name="again.csv"))
        finished(two, again, watch=worker)
        assert hurt(two, again) == (0, 0)
        assert worker.stop() == 0
    chunks, pairs = hurt(two, batch)
    assert chunks + pairs <= 2
    assert set(results(two, batch).values()) <= {"Yes", "No", "Maybe"}
    assert check_promises(two, batch).judged == PAIRS


def test_a_worker_with_nothing_but_sick_slots_ends_and_leaves_the_work_to_others(
    sick: Settings, tmp_path: Path, impatient: str
) -> None:
    """A supervisor sees status 69 and one line; the backlog is as it was but for two chunks, and nobody is blamed.

    Safeguard: after two deaths in a row the canary is asked at the micro-batch's size before anything is claimed.
    """
    batch = submitted(sick, small_manifest(tmp_path, pairs=PAIRS))
    with running(sick, tmp_path, PYTHONPATH=impatient) as worker:
        assert worker.process.wait(timeout=120) == 69, worker.tail()
        assert worker.tail().splitlines()[-1].startswith("caption-audit: its processes die one after the other")
    chunks, pairs = hurt(sick, batch)
    assert 1 <= chunks + pairs <= 2
    with ledger(sick) as database, database.reading() as connection:
        assert connection.execute(select(tables.outcomes)).all() == []
    healthy = changed(sick, stub_sick_slot=-1)
    with running(healthy, tmp_path) as worker:
        finished(healthy, batch, watch=worker)
    assert set(results(healthy, batch).values()) <= {"Yes", "No", "Maybe"}
    assert check_promises(healthy, batch).judged == PAIRS
