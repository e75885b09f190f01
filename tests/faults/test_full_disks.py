"""Full disks: work stops with a reason and goes on by itself when there is room; nothing is half-written."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg import sql

from audit.pair import BatchId
from audit.settings import Settings
from db.queries import progress
from ops.worker_process import WorkerProcess
from tests.conftest import make_settings
from tests.support.manifests import draw, small_manifest, write_csv
from tests.support.postgres_server import PostgresServer, run_admin
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
            assert "the ledger's disk is full" in refused.stderr
            assert "Traceback" not in refused.stderr
            began = time.monotonic()
            wait_until(lambda: time.monotonic() - began > 5, timeout_s=20, what="some rounds of housekeeping")
            assert progress(database, batch).judged == held
            lines = [
                event["reason"] for name in ("ledger waited for", "housekeeping waits") for event in worker.events(name)
            ]
            assert 1 <= len(lines) <= 4, lines
            assert all(line.startswith("the ledger's disk is full") for line in lines)
        with recovery(11, "disk full under the SQLite ledger", within_s=10):
            disk.make_room()
            wait_until(lambda: progress(database, batch).judged > held, timeout_s=60, what="the work to go on")
        finished(settings, batch, watch=worker)
        assert worker.process.poll() is None
    assert {row.attempt for row in told(settings, batch).values()} == {1}
    assert len(results(settings, batch)) == check_promises(settings, batch).submitted == 300


@pytest.mark.long
def test_a_full_disk_under_audit_home_delays_no_verdict(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Ready files, logs and caches are for people: no work depends on them, and no probe restarts a worker for it.

    Safeguard: worker/ready_file.py writes into the blocks that its file has, and complains once.
    """
    with small_disk(tmp_path / "small-home", kilobytes=1024) as disk:
        url = f"sqlite:///{sqlite_settings.home / 'audit.db'}"
        settings = changed(sqlite_settings, home=disk.folder, database_url=url, stub_pair_s=0.02, **QUICK)
        with running(settings, tmp_path) as worker:
            worker.wait_for("model proved")
            wait_until(lambda: command(settings, "health").returncode == 0, timeout_s=60, what="a healthy worker")
            disk.fill()
            batch = submitted(settings, small_manifest(tmp_path, pairs=100))
            with recovery(11, "AUDIT_HOME on a full disk: the next batch is begun", within_s=10):
                begun(settings, batch)
            finished(settings, batch, watch=worker)
            worker.children()[0].kill()
            worker.wait_for("model proved", count=2)
            fresh = worker.events("model proved")[1]["pid"]
            wait_until(lambda: str(fresh) in ready_file(worker).read_text(), timeout_s=60, what="its ready file")
            seen = json.loads(command(settings, "health", "--json").stdout)
            assert (seen["ok"], seen["workers"][0]["ready"]) == (False, 1)
            assert [reason.partition(":")[0] for reason in seen["wrong"]] == [f"the disk of {disk.folder} is full"]
            assert command(settings, "health", "--probe", "live").returncode == 0
            assert len(worker.events("ready file not written")) == 1
            disk.make_room()
            wait_until(lambda: command(settings, "health").returncode == 0, timeout_s=60, what="a healthy worker")
            assert worker.stop() == 0
        disk.fill()
        with running(settings, tmp_path) as worker:  # full when it starts
            again = submitted(settings, small_manifest(tmp_path, pairs=20, name="again.csv"))
            finished(settings, again, watch=worker)
    assert len(results(settings, batch)) == check_promises(settings, batch).submitted == 100


def begun(settings: Settings, batch: BatchId) -> None:
    """Wait for the first outcome."""
    with ledger(settings) as database:
        wait_until(lambda: progress(database, batch).judged, timeout_s=90, what="a first outcome")


def ready_file(worker: Worker) -> Path:
    return worker.settings.home / "run" / f"worker-{worker.process.pid}.json"


@pytest.mark.long
def test_output_that_nobody_can_write_down_stops_no_work(sqlite_settings: Settings, tmp_path: Path) -> None:
    """`caption-audit worker 2> worker.log` on a disk that is full: every line fails, and no pair does.

    Safeguard: logging swallows its own errors, and what leaves a process does not flush outside of a guard.
    """
    settings = changed(sqlite_settings, max_tasks_per_child=1, log_level="debug", **{**QUICK, "chunk_pairs": 4})
    draw(tmp_path / "red.png")
    captions = ["stub:yes", "stub:nan", "stub:no", *(f"stub:maybe {number}" for number in range(16)), "stub:poison"]
    rows = [(f"p{number}", "red.png", caption) for number, caption in enumerate(captions)]
    batch = submitted(settings, write_csv(tmp_path / "pairs.csv", rows))
    worker = Worker(settings, log=Path("/dev/full"))
    try:
        begun(settings, batch)
        held = len(told(settings, batch))
        with recovery(27, "an error storm into a full disk: the next process goes on", within_s=5):
            wait_until(lambda: len(told(settings, batch)) > held, timeout_s=90, what="the next outcome")
        finished(settings, batch)
        assert worker.stop() == 0
    finally:
        worker.kill()
    labels = {"p0": "Yes", "p1": "engine_failed", "p2": "No", "p19": "worker_died"}
    assert results(settings, batch) == labels | {f"p{number}": "Maybe" for number in range(3, 19)}
    check_promises(settings, batch)


@pytest.mark.parametrize(("engine", "status"), [("ofa", 2), ("stub", 69)])
def test_a_refusal_that_cannot_be_written_down_keeps_its_status(
    sqlite_settings: Settings, tmp_path: Path, engine: str, status: int
) -> None:
    """A service manager acts by the status; a process that could not say why it leaves must leave all the same."""
    settings = changed(sqlite_settings, engine=engine, **QUICK)
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(
        "import worker.engines.stub as stub\ndef fails(**_): raise RuntimeError('no device')\nstub.load_stub = fails\n"
    )
    worker = Worker(
        settings, log=Path("/dev/full"), environment={"PYTHONPATH": f"{tmp_path / 'hook'}{os.pathsep}{ROOT}"}
    )
    try:
        assert worker.process.wait(timeout=90) == status
    finally:
        worker.kill()


@pytest.mark.long
def test_a_log_folder_that_is_full_costs_lines_and_nothing_else(sqlite_settings: Settings, tmp_path: Path) -> None:
    """`up` keeps the worker's log under AUDIT_HOME: a flood of it must not become the end of the work.

    Safeguard: telemetry/log_files.py rotates by size and drops what the disk does not take; the pipe is read on.
    """
    settings = changed(sqlite_settings, log_level="debug", stub_pair_s=0.01, **{**QUICK, "feed_every_s": 0.05})
    with small_disk(settings.home / "logs", kilobytes=1024) as disk, exported(settings):
        disk.fill()
        process = WorkerProcess(settings)
        try:
            wait_until(process.is_ready, timeout_s=90, what="a proved model")
            batch = submitted(settings, small_manifest(tmp_path, pairs=200))
            with recovery(27, "the log folder of `up` is full: the next batch is begun", within_s=5):
                begun(settings, batch)
            finished(settings, batch)
            assert (disk.folder / "worker.log").stat().st_size == 0
            disk.make_room()
            finished(settings, submitted(settings, small_manifest(tmp_path, name="more.csv")))
            wait_until(lambda: (disk.folder / "worker.log").stat().st_size, timeout_s=60, what="lines in the log again")
            process.ask_to_stop()
            assert process.process.wait(timeout=60) == 0
        finally:
            process.end()
    check_promises(settings, batch)


@pytest.mark.long
def test_an_error_storm_into_log_files_on_a_full_disk_stops_no_work(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Each process writes files of its own, on a disk of 1 MB that is full when the storm begins.

    Safeguard: telemetry/log_files.py drops what the disk does not take; telemetry/log_floods.py sums the storm up.
    """
    settings = changed(sqlite_settings, log_files=True, log_level="debug", **{**QUICK, "chunk_pairs": 120})
    with small_disk(settings.home / "logs", kilobytes=1024) as disk:
        disk.fill()
        draw(tmp_path / "red.png")
        rows = [(f"p{number}", "red.png", f"stub:{'quote' if number % 4 else 'yes'} {number}") for number in range(120)]
        with running(settings, tmp_path) as worker:
            batch = submitted(settings, write_csv(tmp_path / "pairs.csv", rows))
            with recovery(27, "an error storm into full log files: the batch is begun", within_s=5):
                begun(settings, batch)
            finished(settings, batch, watch=worker)
            assert (disk.folder / "worker-slot-0.log").stat().st_size == 0
            assert len(worker.events("pair failed")) < 60, "summed up: there were 90"
            disk.make_room()
            finished(settings, submitted(settings, small_manifest(tmp_path, name="more.csv")), watch=worker)
            wait_until(lambda: (disk.folder / "worker-slot-0.log").stat().st_size, timeout_s=60, what="lines again")
            assert worker.stop() == 0
    expected = {f"p{number}": "internal_error" if number % 4 else "Yes" for number in range(120)}
    assert results(settings, batch) == expected
    check_promises(settings, batch)


@contextmanager
def exported(settings: Settings) -> Iterator[None]:
    """`up` hands its own environment on."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables(settings).items():
            patch.setenv(name, value)
        yield


@pytest.mark.long
def test_a_full_disk_under_postgresql_stops_the_work_until_there_is_room(
    own_postgres: PostgresServer, redis_url: str, model_directory: Path, tmp_path: Path
) -> None:
    """A server's disk fills up at night: the workers hold their results, say why, and go on when there is room.

    Safeguard: SQLSTATE 53100 is an outage of the ledger (db/faults.py), with a cause that a person can act on.
    """
    with small_disk(own_postgres.folder / "tablespace", kilobytes=32_768) as disk:
        disk.folder.chmod(0o777)
        inside = disk.folder / "data"
        inside.mkdir()
        own_postgres.own(inside)
        place = sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(inside)))
        run_admin(own_postgres.url("postgres"), place)
        run_admin(
            own_postgres.url("postgres"), sql.SQL("CREATE DATABASE narrow TEMPLATE ledger TABLESPACE small").format()
        )
        url = own_postgres.url("narrow")
        settings = make_settings(tmp_path, database_url=url, redis_url=redis_url, model=str(model_directory), **QUICK)
        batch = submitted(settings, small_manifest(tmp_path, pairs=1500))
        with running(settings, tmp_path) as worker, ledger(settings) as database:
            wait_until(lambda: progress(database, batch).judged, timeout_s=60, what="a first commit")
            disk.fill()
            waits = worker.wait_for("ledger waited for")
            assert "the ledger's disk is full" in waits[0]["reason"]
            held = progress(database, batch).judged
            with recovery(11, "disk full under PostgreSQL", within_s=10):
                disk.make_room()
                wait_until(lambda: progress(database, batch).judged > held, timeout_s=60, what="the work to go on")
            finished(settings, batch, watch=worker)
        assert {row.attempt for row in told(settings, batch).values()} == {1}
        assert len(results(settings, batch)) == check_promises(settings, batch).submitted == 1500
        own_postgres.drop("narrow")
        run_admin(own_postgres.url("postgres"), sql.SQL("DROP TABLESPACE small").format())
