"""Whose turn it is to be replaced: the rule alone; tests/faults/test_recycling.py watches real processes."""

import os
from collections.abc import Callable

import pytest
from billiard.pool import EX_RECYCLE

from worker.board import Board
from worker.engines.base import DeviceMemory
from worker.engines.stub import StubEngine
from worker.memory import MB, Growth
from worker.recycling import Turn, leave_in_turn
from worker.slots import Slot

SLOTS = tuple(Slot(number=number, device=str(number % 2), threads=1) for number in range(4))


def ready(board: Board, *numbers: int) -> None:
    for number in numbers:
        board.started(number, os.getpid())
        board.proved(number, os.getpid())


def test_the_first_processes_of_a_device_leave_at_different_counts_and_later_ones_at_the_whole() -> None:
    """They start together: only different counts keep them, and those after them, apart."""
    board = Board()
    ready(board, 0, 1, 2, 3)
    assert [Turn(board, SLOTS, number=number, most=10).count for number in range(4)] == [5, 5, 10, 10]
    ready(board, 0)
    assert Turn(board, SLOTS, number=0, most=10).count == 10


def test_a_process_waits_for_its_neighbour_and_for_nobody_else() -> None:
    """Slots 0 and 2 share a device; 1 and 3 are on another one and may be loading as they like."""
    board = Board()
    ready(board, 0, 2)
    turn = Turn(board, SLOTS, number=2, most=3)
    assert [turn.has_come(served) for served in (0, 2)] == [None, None]
    board.started(0, 12345)  # its replacement loads
    assert not turn.has_come(3)
    assert 2 in board.ready_pids(4), "it goes on, and is seen to"
    board.proved(0, 12345)
    assert turn.has_come(4)
    assert 2 not in board.ready_pids(4), "whoever looks now knows that it is leaving"
    assert not Turn(board, SLOTS, number=0, most=1).has_come(99)


class PoolWorker:
    """What billiard's worker has that matters here."""

    def __init__(self) -> None:
        self.wait_for_job: Callable[[], object] = lambda: ("task", ())


class Process:
    def __init__(self) -> None:
        self._target = PoolWorker()


def test_it_leaves_between_two_chunks_by_billiards_own_door() -> None:
    """Any other status would count as a death, and a chunk in hand would be lost."""
    board = Board()
    ready(board, 0)
    process = Process()
    leave_in_turn(process, Turn(board, SLOTS[:1], number=0, most=2))
    served = [process._target.wait_for_job(), process._target.wait_for_job()]
    assert served == [("task", ())] * 2
    with pytest.raises(SystemExit) as left:
        process._target.wait_for_job()
    assert left.value.code == EX_RECYCLE


class Held(StubEngine):
    """An engine whose device holds what it is told; what is cached goes when it is asked to release it."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.cached = 0

    def memory(self) -> DeviceMemory | None:
        reserved = self.held + self.cached
        return DeviceMemory(total_bytes=0, free_bytes=0, weights_bytes=0, reserved_bytes=reserved, peak_bytes=0)

    def release_memory(self) -> None:
        self.cached = 0


def test_device_memory_that_stays_is_growth_and_what_is_only_cached_is_not() -> None:
    """Torch keeps what one batch of long captions needed: to load a model anew for it would only happen again."""
    engine = Held()
    engine.held = 4 * MB
    growth = Growth(engine=engine, most_rss_bytes=0, most_device_bytes=10 * MB)
    assert [growth.over(served) for served in range(4)] == [None] * 4
    engine.cached = 50 * MB
    assert growth.over(4) is None
    assert engine.cached == 0
    engine.held = 15 * MB
    assert growth.over(5) == {"reason": "device memory has grown", "first_mb": 4, "now_mb": 15}
    allowed = Growth(engine=engine, most_rss_bytes=0, most_device_bytes=0)
    assert [allowed.over(served) for served in range(4)] == [None] * 4


def test_who_has_grown_waits_for_its_turn_too() -> None:
    """Two leaking processes of a device grow equally fast."""
    board = Board()
    ready(board, 0, 2)
    turn = Turn(board, SLOTS, number=2, most=100, grown=lambda served: {"reason": "grown"} if served > 2 else None)
    board.started(0, 12345)
    assert [turn.has_come(served) for served in (2, 3)] == [None, None]
    board.proved(0, 12345)
    assert turn.has_come(3) == {"reason": "grown"}
