"""Deaths in a row of a slot: what counts, and how long the next process waits."""

import os

from worker.board import Board
from worker.sick import wait_s


def test_waits_double_and_leave_time_to_load() -> None:
    """A wait that outlasts Celery's patience would be a death of its own, for ever."""
    waits = [wait_s(deaths, patience_s=300) for deaths in range(9)]
    assert waits == [0, 0, 2, 4, 8, 16, 32, 60, 60]
    assert wait_s(7, patience_s=40) == 10


def test_a_pairs_death_is_not_the_slots_but_for_the_second_in_a_row() -> None:
    """A folder of pairs that kill must not put a slot out; a slot that kills must not name pair after pair."""
    board = Board()
    board.started(0, os.getpid())
    board.marked(0)
    assert board.died(0) == 0
    board.started(0, os.getpid())
    assert board.died(0) == 1, "at full speed nothing is marked"
    board.started(0, os.getpid())
    board.marked(0)
    assert board.died(0) == 2, "the next death at once: it may be the slot"
    board.started(0, os.getpid())  # which has proved its engine again
    board.marked(0)
    assert board.died(0) == 2
    board.healthy(0)
    assert board.deaths_in_a_row(0) == 0


def test_a_slot_that_is_out_keeps_no_neighbour_from_its_turn() -> None:
    """It is never ready again; its neighbours must be replaced all the same."""
    board = Board()
    board.started(0, os.getpid())
    assert not board.are_ready([0])
    for _ in range(8):
        board.died(0)
    assert board.are_ready([0])
