"""Worker processes are replaced now and then; a device must not stand idle meanwhile."""

from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from audit.pair import BatchId
from audit.settings import Settings
from db.workers import seen
from tests.support.manifests import draw, small_manifest, write_csv
from tests.support.running import changed, check_promises, finished, ledger, results, running, submitted, told
from tests.support.waiting import wait_until
from worker.memory import MB

LOAD_S = 9.0
PAUSE_S = 3.0
"""Far above what a busy machine needs, far below a load; benchmarks/recycling.py has the figures."""


@pytest.mark.long
def test_two_processes_of_a_device_are_never_away_at_once(sqlite_settings: Settings, tmp_path: Path) -> None:
    """While one loads its model for nine seconds the other goes on: no pause in the committed pairs comes near it.

    Safeguard: whoever wants to leave waits for neighbours that load (worker/recycling.py).
    """
    settings = changed(
        sqlite_settings,
        devices="cpu",
        slots_per_device=2,
        stub_load_s=LOAD_S,
        stub_pair_s=0.5,
        max_tasks_per_child=26,
        chunk_pairs=1,
        micro_batch=1,
        cache=False,
        feed_every_s=0.2,
    )
    batch = submitted(settings, small_manifest(tmp_path, pairs=130))
    with running(settings, tmp_path) as worker:
        finished(settings, batch, watch=worker, timeout_s=240)
        recycled = worker.events("worker process recycled")
        assert worker.events("worker process leaves") == []
    assert len(recycled) >= 3, "hardly anybody was replaced: the test proves nothing"
    rows = told(settings, batch).values()
    committed = sorted(datetime.fromisoformat(row.judged_at) for row in rows)
    longest_s = max((later - earlier).total_seconds() for earlier, later in pairwise(committed))
    assert longest_s < PAUSE_S
    assert {row.attempt for row in rows} == {1}
    check_promises(settings, batch)


def growing(
    settings: Settings, folder: Path, order: str, *, since: int = 0, **fields: object
) -> tuple[Settings, BatchId]:
    """Ten chunks of one pair each; from number `since` on they have the stub engine do something to its memory."""
    small = changed(settings, devices="cpu", chunk_pairs=1, feed_every_s=0.2, cache=False, **fields)
    draw(folder / "red.png")
    orders = ["" if number < since else order for number in range(10)]
    rows = [(f"p{number}", "red.png", f"{what} stub:yes {number}") for number, what in enumerate(orders)]
    return small, submitted(small, write_csv(folder / "pairs.csv", rows))


@pytest.mark.parametrize(
    ("order", "setting", "reason"),
    [
        ("stub:leak=50", "recycle_rss_growth", "memory has grown"),
        ("stub:device=50", "recycle_device_growth", "device memory has grown"),
    ],
)
def test_a_process_that_leaks_is_replaced_before_it_hurts(
    sqlite_settings: Settings, tmp_path: Path, order: str, setting: str, reason: str
) -> None:
    """A small leak a chunk is an out-of-memory kill at three in the morning.

    Safeguard: worker/memory.py compares what a process holds with what it held after its first chunks.
    """
    limit = {setting: 120 * MB}
    settings, batch = growing(sqlite_settings, tmp_path, order, **limit)
    with running(settings, tmp_path) as worker, ledger(settings) as database:
        finished(settings, batch, watch=worker)
        recycled = worker.wait_for("worker process recycled")
        wait_until(lambda: [slot.recycled for slot in seen(database)][:1] > [0], timeout_s=60, what="it to be told")
        assert worker.events("worker process leaves") == []
        assert [slot.deaths for slot in seen(database)] == [0]
    first = recycled[0]
    assert (first["reason"], first["chunks"]) == (reason, 5), "two chunks, and three times 50 MB are over 120 MB"
    assert first["now_mb"] - first["first_mb"] > 120
    assert results(settings, batch) == {f"p{number}": "Yes" for number in range(10)}
    assert {row.attempt for row in told(settings, batch).values()} == {1}
    check_promises(settings, batch)


def test_a_process_that_needed_much_for_a_moment_is_not_replaced(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Celery's own limit looks at the most there ever was: one peak, and every chunk would cost a load.

    Safeguard: the rss of the moment is compared.
    """
    settings, batch = growing(sqlite_settings, tmp_path, "stub:eat=300", since=5, recycle_rss_growth=120 * MB)
    with running(settings, tmp_path) as worker:
        finished(settings, batch, watch=worker)
        assert worker.events("worker process recycled") == []
        assert len(worker.events("model proved")) == 1
    check_promises(settings, batch)
