"""Processes that are stopped (a debugger, a paused container, a laptop's lid) and go on later, and locked ledgers."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import func, select

from audit.settings import Settings
from db import tables
from db.locks import write_lock_holder
from db.queries import progress
from tests.support.manifests import draw, small_manifest, write_csv
from tests.support.recovery import recovery
from tests.support.running import (
    ROOT,
    Worker,
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
from tests.support.waiting import wait_until

LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def quick(sqlite_settings: Settings) -> Settings:
    """Short leases, one slot."""
    return changed(
        sqlite_settings,
        devices="cpu",
        lease_s=3,
        pair_limit_s=2,
        feed_every_s=0.2,
        resend_s=2,
        chunk_pairs=8,
        cache=False,
    )


def slow_manifest(folder: Path, *, pairs: int = 8, order: str = "stub:sleep=0.3 stub:yes") -> Path:
    draw(folder / "red.png")
    return write_csv(folder / "pairs.csv", [(f"p{number}", "red.png", f"{order} {number}") for number in range(pairs)])


def yes(pairs: int) -> dict[str, str]:
    return {f"p{number}": "Yes" for number in range(pairs)}


def counted(settings: Settings, column: Any) -> int:
    """The column's sum over all chunks."""
    with ledger(settings) as database, database.reading() as connection:
        return int(connection.scalar(select(func.sum(column))) or 0)


@contextmanager
def stopped(*processes: psutil.Process) -> Iterator[None]:
    """SIGSTOP for the length of a block."""
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        for process in processes:
            wait_until(partial(_is_stopped, process), timeout_s=20, what=f"process {process.pid} to stop")
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)


def _is_stopped(process: psutil.Process) -> bool:
    return bool(process.status() == psutil.STATUS_STOPPED)


@contextmanager
def stopped_at_work(settings: Settings, *processes: psutil.Process) -> Iterator[None]:
    """The same, and not in the middle of a commit: nobody could take over from whoever has the ledger's file locked."""
    pids = {process.pid for process in processes}
    while True:
        with stopped(*processes):
            if write_lock_holder(str(settings.home / "audit.db")) not in pids:
                yield
                return


def family(worker: Worker) -> list[psutil.Process]:
    main = psutil.Process(worker.process.pid)
    return [main, *main.children(recursive=True)]


def at_work(worker: Worker, settings: Settings) -> None:
    """Until a chunk is claimed."""
    claimed(settings, worker, times=1)


def claimed(settings: Settings, worker: Worker, *, times: int) -> None:
    """Until chunks were claimed so often."""
    enough = f"{times} claims{worker.tail()}"
    wait_until(lambda: counted(settings, tables.chunks.c.attempts) >= times, timeout_s=60, what=enough)


def holder(settings: Settings) -> int:
    """The pid of the process that has the one chunk that is running."""
    with ledger(settings) as database, database.reading() as connection:
        chunks = tables.chunks.c
        return int(connection.scalar(select(chunks.holder_pid).where(chunks.state == tables.ChunkState.RUNNING)) or 0)


def marked(settings: Settings) -> bool:
    """Whether a process has committed that it is about to judge a pair."""
    with ledger(settings) as database, database.reading() as connection:
        return "judge" in connection.scalars(select(tables.chunks.c.marker_stage))


def test_a_worker_that_was_stopped_past_its_lease_writes_nothing_twice(quick: Settings, tmp_path: Path) -> None:
    """A paused container wakes up in the middle of a chunk that another has judged meanwhile.

    Safeguard: db/record.py compares the lease's token, writes nothing with an old one and counts the late writer.
    """
    patient = changed(quick, chunk_pairs=4, soft_limit_s=200)  # its clock runs while it is stopped
    with running(patient, tmp_path) as one, running(patient, tmp_path) as two:
        for worker in (one, two):
            worker.wait_for("model proved")
        batch = submitted(patient, slow_manifest(tmp_path, pairs=4, order="stub:sleep=0.8 stub:yes"))
        at_work(one, patient)
        late, other = (one, two) if holder(patient) in {child.pid for child in one.children()} else (two, one)
        with stopped_at_work(patient, *reversed(family(late))):
            with recovery(6, "a whole worker stopped: another takes its chunk over", within_s=3 + 10):
                claimed(patient, other, times=2)
            finished(patient, batch, watch=other)
            judged = told(patient, batch)
        wait_until(lambda: counted(patient, tables.chunks.c.fenced), timeout_s=60, what=f"a fence{late.tail()}")
        assert late.process.poll() is None
    assert told(patient, batch) == judged
    assert results(patient, batch) == yes(4)
    check_promises(patient, batch)


def test_a_stopped_child_is_replaced_and_its_pair_is_not_blamed(quick: Settings, tmp_path: Path) -> None:
    """A process that was stopped by hand and forgotten must not hold its slot for ever.

    Safeguard: worker/housekeeping.py kills a child of its own that makes no progress for a lease.
    """
    quick = changed(quick, soft_limit_s=200)  # or the hard limit would kill it, a minute later
    batch = submitted(quick, slow_manifest(tmp_path))
    with running(quick, tmp_path) as worker:
        at_work(worker, quick)
        with stopped_at_work(quick, worker.children()[0]):
            with recovery(6, "a child stopped for good: its chunk is claimed anew", within_s=3 + 10):
                claimed(quick, worker, times=2)
            finished(quick, batch, watch=worker)
        assert len(worker.events("stuck process killed")) == 1
    assert results(quick, batch) == yes(8)
    check_promises(quick, batch)


@pytest.mark.long
def test_a_pair_at_which_processes_are_stopped_again_and_again_is_not_blamed(quick: Settings, tmp_path: Path) -> None:
    """Three processes end with the same pair at hand, and it has done nothing.

    Safeguard: db/death.py and worker/deaths.py look whether somebody has stopped a process that makes no progress.
    """
    quick = changed(quick, soft_limit_s=200)
    batch = submitted(quick, slow_manifest(tmp_path, pairs=1, order="stub:sleep=1.5 stub:yes"))
    with running(quick, tmp_path) as worker:
        for times in (1, 2, 3):
            claimed(quick, worker, times=times)
            if times > 1:
                wait_until(lambda: marked(quick), timeout_s=60, what=f"a marker{worker.tail()}")
            with stopped_at_work(quick, worker.children()[0]):
                worker.wait_for("stuck process killed", count=times)
        finished(quick, batch, watch=worker)
    assert results(quick, batch) == yes(1)
    check_promises(quick, batch)


def test_a_stopped_main_process_loses_nothing_and_goes_on(quick: Settings, tmp_path: Path) -> None:
    """Its child finishes the chunk in hand and keeps its lease; the rest waits, and no attempt is charged.

    Safeguard: the lease is renewed by recording, in the child, and not by a thread of the main process.
    """
    batch = submitted(quick, slow_manifest(tmp_path, pairs=24))
    with running(quick, tmp_path) as worker, ledger(quick) as database:
        at_work(worker, quick)
        with stopped(psutil.Process(worker.process.pid)):
            wait_until(lambda: progress(database, batch).judged >= 8, timeout_s=60, what="the chunk in hand")
        with recovery(6, "the main process goes on after SIGCONT", within_s=13):
            wait_until(lambda: progress(database, batch).judged > 8, timeout_s=60, what="the next chunk")
        finished(quick, batch, watch=worker)
        assert worker.stop() == 0
    assert {row.attempt for row in told(quick, batch).values()} == {1}
    assert results(quick, batch) == yes(24)
    check_promises(quick, batch)


def test_whoever_was_stopped_with_the_write_lock_is_named_and_waited_for(quick: Settings, tmp_path: Path) -> None:
    """Nobody can take SQLite's lock from a stopped process, but the operator can be told whom to wake or to end.

    Safeguard: db/locks.py reads the holder's pid from /proc/locks; results are held while the file is locked.
    """
    batch = submitted(quick, slow_manifest(tmp_path, pairs=24))
    path = quick.home / "audit.db"
    with running(quick, tmp_path) as worker, ledger(quick) as database:
        wait_until(lambda: progress(database, batch).judged, timeout_s=60, what="a first commit")
        locker = subprocess.Popen(
            [sys.executable, "-c", LOCK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert locker.stdout is not None
            assert locker.stdout.readline() == "locked\n"
            with stopped(psutil.Process(locker.pid)):
                name = f"process {locker.pid} ({psutil.Process(locker.pid).name()}), which is stopped"
                for event in ("ledger waited for", "housekeeping waits"):
                    assert worker.wait_for(event)[0]["reason"] == f"the ledger's file is locked by {name}"
            held = progress(database, batch).judged
            with recovery(6, "the holder of the write lock goes on, and ends", within_s=13):
                locker.communicate("", timeout=60)
                wait_until(lambda: progress(database, batch).judged > held, timeout_s=60, what="the work to go on")
        finally:
            locker.kill()
            locker.wait()
        finished(quick, batch, watch=worker)
    assert {row.attempt for row in told(quick, batch).values()} == {1}
    assert results(quick, batch) == yes(24)
    check_promises(quick, batch)


@pytest.mark.long
def test_a_ledger_that_is_locked_for_thirty_seconds_costs_time_alone(quick: Settings, tmp_path: Path) -> None:
    """Somebody's own transaction: workers wait, and whoever submits meanwhile waits or is told to try later.

    Safeguard: worker/tasks.py holds results and repeats the commit; worker/housekeeping.py kills nobody as stuck while
    the ledger is away, and for one lease after it.
    """
    quick = changed(quick, soft_limit_s=200)  # of a chunk: its clock runs while the ledger is waited for
    batch = submitted(quick, slow_manifest(tmp_path, pairs=60))
    more = small_manifest(tmp_path / "more", pairs=8)
    with running(quick, tmp_path) as worker, ledger(quick) as database:
        wait_until(lambda: progress(database, batch).judged, timeout_s=60, what="a first commit")
        intruder = sqlite3.connect(quick.home / "audit.db", isolation_level=None)
        intruder.execute("BEGIN IMMEDIATE")
        held = progress(database, batch).judged
        command = [sys.executable, "-m", "ops.cli", "submit", str(more)]
        environment = {**os.environ, **variables(quick)}
        submitting = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + 30
        wait_until(lambda: time.monotonic() > until, timeout_s=60, what="thirty seconds of a held lock")
        assert progress(database, batch).judged == held
        intruder.execute("ROLLBACK")
        intruder.close()
        with recovery(25, "SQLite locked for 30 s by somebody else", within_s=5):
            wait_until(lambda: progress(database, batch).judged > held, timeout_s=60, what="the work to go on")
        said = submitting.communicate(timeout=60)[1]
        assert submitting.returncode in (0, 69, 75), said
        finished(quick, batch, watch=worker, timeout_s=120)
        assert worker.events("stuck process killed") == []
    assert counted(quick, tables.chunks.c.deaths) == 0
    assert {row.attempt for row in told(quick, batch).values()} == {1}
    assert results(quick, batch) == yes(60)
    check_promises(quick, batch)


@pytest.mark.parametrize("order", ["stub:hang", "stub:sleep=60 stub:yes"])
def test_a_pair_that_takes_too_long_is_timed_out_after_three_deaths_at_most(
    quick: Settings, tmp_path: Path, order: str
) -> None:
    """In C with the GIL held, where no soft limit fires, or in Python: the pair alone, not its neighbours, and no loop.

    Safeguard: worker/housekeeping.py kills from outside what makes no progress for a lease (lease = limit + 1 s here),
    and says so to worker/deaths.py, for its SIGKILL is not from anybody.
    """
    draw(tmp_path / "red.png")
    captions = ["stub:yes", order, "stub:no", "stub:maybe"]
    rows = [(f"p{number}", "red.png", caption) for number, caption in enumerate(captions)]
    quick = changed(quick, soft_limit_s=200)
    with running(quick, tmp_path) as worker:
        worker.wait_for("model proved")
        batch = submitted(quick, write_csv(tmp_path / "pairs.csv", rows))
        at_work(worker, quick)
        with recovery(7, f"{order}: killed from outside, and another process has the chunk", within_s=3 + 5):
            claimed(quick, worker, times=2)
        finished(quick, batch, watch=worker)
        assert len(worker.events("stuck process killed")) <= 3
    assert results(quick, batch) == {"p0": "Yes", "p1": "timed_out", "p2": "No", "p3": "Maybe"}
    assert (told(quick, batch)["p1"].attempt or 0) <= 3
    check_promises(quick, batch)
