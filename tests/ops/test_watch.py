"""Watching a worker from outside: what is a hang, what is not, and what counts as progress."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from audit.settings import Settings
from ops.watch import Watch
from tests.conftest import make_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(
        tmp_path, guard_silent_s=20, guard_unready_s=30, guard_steady_s=10, start_wait_s=5, stop_grace_s=1
    )


@pytest.fixture
def process() -> Iterator[psutil.Process]:
    """Somebody whose child is a slot's process."""
    started = subprocess.Popen(["sh", "-c", "sleep 600 & wait"])
    main = psutil.Process(started.pid)
    while not main.children():
        time.sleep(0.01)
    children = main.children()
    yield main
    for one in (*children, main):
        one.kill()
    started.wait()


class Told:
    """A worker's ready file, and a clock that is turned by hand."""

    def __init__(self, settings: Settings, process: psutil.Process) -> None:
        self.now = 1000.0
        self.process = process
        self.path = settings.home / "run" / f"worker-{process.pid}.json"
        self.watch = Watch(settings, process.pid, now=self.now)
        self._written = 0

    def write(self, *, ready: bool, **more: Any) -> None:
        self._written += 1
        pids = {"0": self.process.children()[0].pid} if ready else {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(
            json.dumps({"pid": self.process.pid, "slots": 1, "ready": pids, "model": "demo", "waits": None, **more})
        )
        at_ns = time.time_ns() + self._written * 1_000_000
        os.utime(self.path, ns=(at_ns, at_ns))

    def looks(self, seconds: int, **told: Any) -> str | None:
        """Look each second; the file is written each second when `told` says what."""
        for _ in range(seconds):
            self.now += 1
            if told:
                self.write(**told)
            if cause := self.watch.look(self.now):
                return cause
        return None


@pytest.fixture
def told(settings: Settings, process: psutil.Process) -> Told:
    return Told(settings, process)


def test_a_main_process_that_falls_silent_hangs(told: Told) -> None:
    """It sweeps and feeds nothing; nobody but a supervisor can end it."""
    assert told.looks(3, ready=True) is None
    assert told.looks(20) is None
    assert str(told.looks(1)).startswith(f"worker {told.process.pid} hangs: it has not told of itself for ")


def test_a_slow_load_is_no_hang_and_a_load_without_end_is_one(told: Told) -> None:
    """A large model on a slow disk takes minutes; restarting it in the middle would never end."""
    assert told.looks(30, ready=False) is None
    assert told.looks(2, ready=False) == (
        f"worker {told.process.pid} cannot judge: none of its 1 slots has proved its model, for 31 s"
    )


def test_a_worker_that_was_ready_once_has_its_patience_anew(told: Told) -> None:
    """Each reload is a load of its own."""
    assert told.looks(29, ready=False) is None
    assert told.looks(1, ready=True) is None
    assert told.looks(29, ready=False) is None


def test_a_worker_that_waits_for_its_services_is_left_alone(told: Told) -> None:
    """A restart ends no outage of Redis or of the ledger; it loses a loaded model."""
    assert told.looks(100, ready=False, waits="Redis does not answer") is None


def test_a_worker_that_never_tells_anything_is_given_the_time_of_its_start(told: Told) -> None:
    """It waits for its ledger and hashes its model first."""
    assert told.looks(35) is None
    assert told.looks(1) == "it told nothing of itself for 36 s after its start"


def test_a_pause_of_the_whole_machine_is_no_hang(told: Told) -> None:
    """A laptop's lid, a frozen container: who watches was asleep, too."""
    assert told.looks(3, ready=True) is None
    told.now += 3600
    assert told.looks(1) is None
    assert told.looks(15) is None
    assert told.looks(10) is not None


def test_a_finished_chunk_is_progress_and_so_is_a_quiet_time_with_nothing_to_do(told: Told) -> None:
    """What ended an earlier run is over then, and the next restart is the first one again."""
    assert told.looks(5, ready=True, busy=1, finished=0) is None
    assert told.watch.progressed is False
    assert told.looks(1, ready=True, busy=1, finished=1) is None
    assert told.watch.progressed is True
    told.watch.progressed = False
    assert told.looks(15, ready=True, busy=1, finished=1) is None
    assert told.watch.progressed is False, "a chunk in hand for long is none"
    assert told.looks(12, ready=True, busy=0, finished=1) is None
    assert told.watch.progressed is True
