"""Worker processes are replaced now and then; a device must not stand idle meanwhile."""

from datetime import datetime
from itertools import pairwise
from pathlib import Path

from audit.settings import Settings
from tests.support.manifests import small_manifest
from tests.support.running import changed, check_promises, finished, running, submitted, told

LOAD_S = 9.0


def test_two_processes_of_a_device_are_never_away_at_once(sqlite_settings: Settings, tmp_path: Path) -> None:
    """While one loads its model for nine seconds the other goes on: no pause in the committed pairs comes near it."""
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
    assert longest_s < LOAD_S / 2
    assert {row.attempt for row in rows} == {1}
    check_promises(settings, batch)
