"""What a main process makes of its children's ends: a pair is blamed for what it can have done, and for that alone."""

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from audit.holder import start_ticks
from db.death import Cause, Death, is_stopped
from tests.support.waiting import wait_until
from worker.board import Board
from worker.deaths import EX_LET_GO, Deaths


@pytest.fixture
def child() -> Iterator[int]:
    """A process with the only slot, and rows 3 to 5 in hand."""
    process = subprocess.Popen(["sleep", "600"])
    yield process.pid
    process.kill()
    process.wait()


class Kernel:
    """Counts its kills for want of memory, and has a clock."""

    def __init__(self) -> None:
        self.kills = 7
        self.time = 100.0


def deaths_of(board: Board, child: int, kernel: Kernel | None = None) -> Deaths:
    """Of a worker whose one child has rows 3 to 5 in hand."""
    kernel = kernel or Kernel()
    board.started(0, child)
    board.holds(0, 3, 5)
    return Deaths(board, 1, oom_kills=lambda: kernel.kills, now=lambda: kernel.time)


def told(deaths: Deaths, child: int) -> Death:
    return deaths.known()[(child, start_ticks(child) or 0)]


@pytest.mark.parametrize(
    ("status", "cause", "certain"),
    [
        (-signal.SIGSEGV, Cause.DIED, True),
        (1, Cause.DIED, True),
        (-signal.SIGKILL, Cause.DIED, False),
        (-signal.SIGTERM, Cause.DIED, False),
        (None, Cause.DIED, False),
        (EX_LET_GO, Cause.LET_GO, False),
    ],
)
def test_a_status_says_whose_doing_it_was(child: int, status: int | None, cause: Cause, certain: bool) -> None:
    """A signal of its own, or an exit, is the process's doing; anybody can send the others."""
    deaths = deaths_of(Board(), child)
    deaths.ended(child, status)
    assert (told(deaths, child).cause, told(deaths, child).certain) == (cause, certain)


def test_a_kill_for_want_of_memory_is_the_process_s_own_doing(child: int) -> None:
    """The kernel's count has grown lately, also when the death is noticed some rounds later."""
    kernel = Kernel()
    deaths = deaths_of(Board(), child, kernel)
    kernel.kills += 1
    for _ in range(20):
        kernel.time += 0.2
        deaths.look()
    deaths.ended(child, -signal.SIGKILL)
    assert told(deaths, child) == Death(cause=Cause.DIED, certain=True, hand=(3, 5))
    deaths.ended(child, -signal.SIGKILL)  # and one such kill explains one death
    assert not told(deaths, child).certain


def test_a_kill_of_some_time_ago_explains_nothing(child: int) -> None:
    """The count is the whole host's: what happened elsewhere an hour ago is not evidence."""
    kernel = Kernel()
    deaths = deaths_of(Board(), child, kernel)
    kernel.kills += 1
    for _ in range(100):
        kernel.time += 0.2
        deaths.look()
    deaths.ended(child, -signal.SIGKILL)
    assert not told(deaths, child).certain


def test_housekeeping_s_own_kill_is_known_by_its_reason(child: int) -> None:
    """A hang is the pair's doing; whom somebody has stopped did nothing, and its pair neither."""
    board = Board()
    deaths = deaths_of(board, child)
    assert deaths.stuck([child, os.getppid()]) == [child]  # the other one is not ours
    deaths.ended(child, -signal.SIGKILL)
    assert told(deaths, child) == Death(cause=Cause.STUCK, certain=True, hand=(3, 5))
    os.kill(child, signal.SIGSTOP)
    wait_until(lambda: is_stopped(child), timeout_s=20, what="the process to stop")
    deaths.stuck([child])
    deaths.ended(child, -signal.SIGKILL)
    assert told(deaths, child) == Death(cause=Cause.STOPPED, certain=False, hand=(3, 5))
    deaths.ended(child, -signal.SIGKILL)  # of the same number, later: nobody foretold it
    assert told(deaths, child) == Death(cause=Cause.DIED, certain=False, hand=(3, 5))
