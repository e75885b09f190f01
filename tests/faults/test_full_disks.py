"""Full disks: work stops with a reason and goes on by itself when there is room; nothing is half-written."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit.settings import Settings
from db.queries import progress
from tests.support.manifests import small_manifest
from tests.support.recovery import recovery
from tests.support.running import (
    ROOT,
    changed,
    check_promises,
    finished,
    ledger,
    results,
    running,
    submitted,
    told,
    variables,
)
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.waiting import wait_until

QUICK = {"devices": "cpu", "cache": False, "chunk_pairs": 8, "feed_every_s": 0.2, "tell_every_s": 1}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Room for a ledger of some hundred pairs."""
    with small_disk(tmp_path / "disk", kilobytes=4096) as mounted:
        yield mounted


def command(settings: Settings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", *arguments],
        cwd=ROOT,
        env={**variables(settings), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def a_reader(path: Path) -> Iterator[None]:
    """Somebody reads for long: until then the write-ahead log cannot begin anew, and grows with every commit."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM chunks").fetchone()
        yield
    finally:
        connection.close()


def test_a_full_disk_under_the_ledger_stops_the_work_until_there_is_room(
    sqlite_settings: Settings, disk: SmallDisk, tmp_path: Path
) -> None:
    """A night's work must not die, nor blame pairs, because a disk was full for an hour; and somebody must hear of it.

    Safeguard: SQLITE_FULL is an outage of the ledger (db/faults.py): results are held and their commit is repeated.
    """
    path = disk.folder / "audit.db"
    shutil.copyfile(sqlite_settings.home / "audit.db", path)
    settings = changed(sqlite_settings, database_url=f"sqlite:///{path}", stub_pair_s=0.02, **QUICK)
    batch = submitted(settings, small_manifest(tmp_path, pairs=300))
    with running(settings, tmp_path) as worker, ledger(settings) as database:
        wait_until(lambda: progress(database, batch).judged, timeout_s=60, what="a first commit")
        with a_reader(path):
            disk.fill()
            worker.wait_for("ledger waited for")
            held = progress(database, batch).judged
            asked = command(settings, "health", "--json")
            assert asked.returncode == 1, asked.stdout + asked.stderr
            (reason,) = json.loads(asked.stdout)["wrong"]
            assert reason.startswith(f"the disk of {disk.folder} is full")
            assert command(settings, "health", "--probe", "live").returncode == 0
            refused = command(settings, "submit", str(small_manifest(tmp_path, pairs=20, name="more.csv")))
            assert refused.returncode == 69, refused.stderr
            assert "disk is full" in refused.stderr
            assert "Traceback" not in refused.stderr
            began = time.monotonic()
            wait_until(lambda: time.monotonic() - began > 5, timeout_s=20, what="some rounds of housekeeping")
            assert progress(database, batch).judged == held
            lines = [
                event["reason"] for name in ("ledger waited for", "housekeeping waits") for event in worker.events(name)
            ]
            assert 1 <= len(lines) <= 4, lines
            assert all("disk is full" in line for line in lines)
        with recovery(11, "disk full under the SQLite ledger", within_s=10):
            disk.make_room()
            wait_until(lambda: progress(database, batch).judged > held, timeout_s=60, what="the work to go on")
        finished(settings, batch, watch=worker)
        assert worker.process.poll() is None
    assert {row.attempt for row in told(settings, batch).values()} == {1}
    assert len(results(settings, batch)) == check_promises(settings, batch).submitted == 300
