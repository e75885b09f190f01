"""Processes that share a device get out of each other's way, and none waits for a dead one."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.waiting import wait_until
from worker.device_lock import DeviceLock, lock_folder

HOLD = """
import sys
from pathlib import Path
from worker.device_lock import DeviceLock
with DeviceLock(Path(sys.argv[1]), "GPU-1").passing(lambda: None):
    print("passing", flush=True)
    sys.stdin.read()
"""


def test_passes_share_the_device(tmp_path: Path) -> None:
    """Two processes a device exist to compute at the same time."""
    with DeviceLock(tmp_path, "GPU-1").passing(lambda: None), DeviceLock(tmp_path, "GPU-1").passing(lambda: None):
        pass


def test_who_wants_the_device_alone_waits_for_the_pass_and_keeps_others_out(tmp_path: Path) -> None:
    """The last try of a pair that does not fit is worth something only while nobody else computes."""
    passing = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert passing.stdout is not None
    assert passing.stdout.readline() == "passing\n"
    with DeviceLock(tmp_path, "GPU-1").alone(patience_s=0.05) as mine:
        assert not mine, "somebody is computing"
    with DeviceLock(tmp_path, "GPU-2").alone(patience_s=0.05) as mine:
        assert mine, "another device is another lock"
    passing.kill()  # the kernel drops its lock
    passing.communicate()
    with DeviceLock(tmp_path, "GPU-1").alone(patience_s=30) as mine:
        assert mine
        made_room: list[bool] = []
        done: list[bool] = []

        def neighbour() -> None:
            with DeviceLock(tmp_path, "GPU-1").passing(lambda: made_room.append(True)):
                done.append(True)

        pool = ThreadPoolExecutor(max_workers=1)
        waiting = pool.submit(neighbour)
        wait_until(lambda: made_room, timeout_s=20, what="the neighbour to give back its memory")
        assert not done
    waiting.result(timeout=20)
    pool.shutdown()
    assert (made_room, done) == ([True], [True])


def test_a_folder_that_cannot_be_written_locks_nothing(tmp_path: Path) -> None:
    """A courtesy must not stop the work."""
    with DeviceLock(tmp_path / "nowhere", "GPU-1").passing(lambda: None):
        pass
    with DeviceLock(tmp_path / "nowhere", "GPU-1").alone(patience_s=0.01) as mine:
        assert not mine


def test_the_locks_lie_in_a_folder_of_our_own(tmp_path: Path) -> None:
    """Whoever could write there could make every pass of every worker wait."""
    folder = lock_folder(tmp_path)
    assert folder.stat().st_uid == os.getuid()
    assert not folder.stat().st_mode & 0o022


def test_one_patience_is_for_the_gate_and_the_device_together(tmp_path: Path) -> None:
    """Twice the patience, then again for the pass before it, is a lease: who waits would be killed as stuck."""
    other, mine, patience_s = DeviceLock(tmp_path, "GPU-1"), DeviceLock(tmp_path, "GPU-1"), 4.0
    with other.alone(patience_s=patience_s) as theirs:
        began = time.monotonic()
        with mine.alone(patience_s=patience_s) as got:
            waited_s = time.monotonic() - began
    assert (theirs, got) == (True, False)
    assert patience_s <= waited_s < 1.9 * patience_s
