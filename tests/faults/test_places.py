"""A place of pictures that goes away in the middle of a batch: the batch waits, others go on, and nobody is blamed."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select

from audit.pair import BatchId
from audit.settings import Settings
from db import tables
from db.queries import progress
from ops.watching import look
from ops.worker_view import look_at_workers
from tests.support.manifests import draw, write_csv
from tests.support.running import Worker, changed, check_promises, finished, ledger, results, running, submitted, told
from tests.support.small_disk import small_disk
from tests.support.waiting import wait_until

PAIRS = 24


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Two slots, small chunks, and breakers that open for a moment."""
    return changed(
        settings,
        devices="cpu",
        slots_per_device=2,
        lease_s=10,
        pair_limit_s=5,
        feed_every_s=0.2,
        resend_s=2,
        tell_every_s=0.5,
        chunk_pairs=4,
        cache=False,
        breaker_open_s=2,
        breaker_longest_s=3,
    )


def shop(folder: Path, *, pairs: int = PAIRS, sleep_s: float = 0.1) -> Path:
    """A manifest among its pictures."""
    folder.mkdir(exist_ok=True)
    draw(folder / "red.png")
    rows = [(f"p{number}", "red.png", f"stub:sleep={sleep_s} stub:yes {number}") for number in range(pairs)]
    return write_csv(folder / "pairs.csv", rows)


def judged(settings: Settings, batch: BatchId) -> int:
    with ledger(settings) as database:
        return progress(database, batch).judged


def charged(settings: Settings, batch: BatchId) -> tuple[int, int]:
    """Deaths, and chunks that were parked."""
    chunks = tables.chunks.c
    sums = select(func.sum(chunks.deaths), func.count().filter(chunks.state == tables.ChunkState.PARKED))
    with ledger(settings) as database, database.reading() as connection:
        deaths, parked = connection.execute(sums.where(chunks.batch == batch)).one()
    return int(deaths), int(parked)


def check_healed(settings: Settings, worker: Worker, *batches: BatchId) -> None:
    """Each pair was judged once, at its first attempt, by processes that lived on."""
    for batch in batches:
        assert set(results(settings, batch).values()) == {"Yes"}
        assert {row.attempt for row in told(settings, batch).values()} == {1}
        assert charged(settings, batch) == (0, 0)
        check_promises(settings, batch)
    assert worker.events("worker process leaves") == []
    assert len(worker.events("model proved")) == 2
    assert len(worker.events("place of pictures is back")) == 1


def test_a_folder_that_goes_away_makes_its_batch_wait_and_no_other(quick: Settings, tmp_path: Path) -> None:
    """One shop's file server is down at night; the other shops' audits must be ready in the morning, and its own soon.

    Safeguard: db/breakers.py, asked by each claim and by the feed; without it chunks die five times and are parked.
    """
    mine, other = tmp_path / "mine", tmp_path / "other"
    waiting = submitted(quick, shop(mine, pairs=2 * PAIRS))
    with running(quick, tmp_path) as worker, ledger(quick) as database:
        wait_until(lambda: judged(quick, waiting), timeout_s=60, what=f"a chunk{worker.tail()}")
        mine.rename(tmp_path / "gone")
        worker.wait_for("place of pictures is left alone")
        so_far = judged(quick, waiting)
        assert so_far + quick.chunk_pairs < 2 * PAIRS
        going_on = submitted(quick, shop(other))
        assert finished(quick, going_on, watch=worker).judged == PAIRS
        # The other slot may have had a chunk in hand whose pictures it had read already.
        assert judged(quick, waiting) <= so_far + quick.chunk_pairs
        wait_until(lambda: look(database, waiting, quick)[1], timeout_s=60, what="a reason")
        trouble = str(look(database, waiting, quick)[1])
        assert f"{mine}, left alone for " in trouble
        assert "the image folder cannot be read: No such file or directory" in trouble
        assert any(str(mine) in line for line in look_at_workers(quick, database).lines)
        assert look(database, going_on, quick)[1] is None
        (tmp_path / "gone").rename(mine)
        finished(quick, waiting, watch=worker)
        assert look(database, waiting, quick)[1] is None
        check_healed(quick, worker, waiting, going_on)
        assert worker.stop() == 0


@contextmanager
def bound(source: Path, target: Path) -> Iterator[None]:
    """The source, mounted on the target as well."""
    target.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True, timeout=30)


def test_a_mount_that_is_lost_in_the_middle_of_a_chunk_fails_no_pair(quick: Settings, tmp_path: Path) -> None:
    """What is left of a mount is an empty folder, where every picture looks as if it had never been.

    What was judged before is kept. Safeguard: worker/images/fetch.py looks at the folder when a picture is missing;
    without it pairs end file_missing.
    """
    pairs = 100  # of one chunk, of which a few are read ahead
    one = changed(quick, chunk_pairs=pairs)
    pictures = tmp_path / "mounted"
    with small_disk(tmp_path / "disk", kilobytes=512) as disk:
        shop(disk.folder, pairs=pairs)
        with running(one, tmp_path) as worker:
            with bound(disk.folder, pictures):
                batch = submitted(one, pictures / "pairs.csv")
                wait_until(lambda: judged(one, batch), timeout_s=60, what=f"a first record{worker.tail()}")
            worker.wait_for("place of pictures is left alone")
            assert 0 < judged(one, batch) < pairs
            assert set(results(one, batch).values()) == {"Yes"}
            with bound(disk.folder, pictures):
                finished(one, batch, watch=worker)
            check_healed(one, worker, batch)
