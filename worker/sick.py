"""A sick slot: one whose processes die again and again must not charge chunk after chunk with its deaths.

A device can be sound enough to load a model, and to judge a picture, and yet kill whoever works on it. Deaths in a row
of a slot are counted on the board: those that no pair explains, with no chunk finished between. After two the next
process waits, so that healthy slots take the work, and proves its engine again at the size that it works with; after
eight the slot is left alone, and a worker without any other slot ends.
"""

import os
import time
from typing import NoReturn

from telemetry.logs import logger
from worker.board import DOUBTED_AFTER, Board, is_doubted, is_out

log = logger(__name__)
FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 60.0
OF_THE_PATIENCE = 0.25
"""Share of the time that Celery gives a process to start which may pass in waiting; the model loads in the rest."""
OUT_NAP_S = 60.0
EX_OUT = 73
"""Exit status of a process of a slot that is out: Celery has to be given one, and kills those that start for long."""


def wait_s(deaths: int, *, patience_s: float) -> float:
    """How long the next process waits: 2, 4, 8 ... 60 s, and never so long that it could not load then."""
    if not is_doubted(deaths):
        return 0.0
    return float(min(FIRST_WAIT_S * 2 ** (deaths - DOUBTED_AFTER), LONGEST_WAIT_S, OF_THE_PATIENCE * patience_s))


def wait_for_others(board: Board, slot: int, *, patience_s: float) -> None:
    """In a pool process, before it loads: wait as a slot of so many deaths should, or leave when it is out."""
    deaths = board.deaths_in_a_row(slot)
    if is_out(deaths):
        _nap(board, OUT_NAP_S)
        _leave()
    pause_s = wait_s(deaths, patience_s=patience_s)
    if pause_s:
        log.warning("slot doubted", slot=slot, deaths=deaths, wait_s=pause_s)
        _nap(board, pause_s)


def _nap(board: Board, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not board.draining and time.monotonic() < until:
        time.sleep(0.1)


def _leave() -> NoReturn:
    os._exit(EX_OUT)
