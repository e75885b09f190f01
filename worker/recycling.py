"""When a pool process makes room for a fresh one: after so many chunks, or grown; never two of a device at once.

A replacement loads a model for seconds to minutes. Celery counts chunks alike for every process, so those of a device,
which started together and work equally fast, would also be away together, and the device idle.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from billiard.pool import EX_RECYCLE

from telemetry.logs import logger
from telemetry.metrics import meters
from worker.board import Board
from worker.slots import Slot

log = logger(__name__)
Why = Mapping[str, object]
"""Why a process leaves, as fields of a log event."""
COUNTED = {"chunks": "chunks", "memory has grown": "rss", "device memory has grown": "device"}
"""A reason as it is counted."""


def _not_grown(_served: int) -> Why | None:
    return None


class Turn:
    """Says when the process of slot `number` may leave; `most` chunks is when it wants to, or when `grown` says why."""

    def __init__(
        self,
        board: Board,
        slots: Sequence[Slot],
        *,
        number: int,
        most: int,
        grown: Callable[[int], Why | None] = _not_grown,
    ) -> None:
        device = slots[number % len(slots)].device
        sharing = [slot.number for slot in slots if slot.device == device]
        self._board = board
        self._number = number
        self._grown = grown
        self._looked: tuple[int, Why | None] = (-1, None)
        self._neighbours = [other for other in sharing if other != number]
        # The first processes of a device start together: they leave at evenly spaced counts, and so do their followers.
        place = sharing.index(number) + 1 if number in sharing else len(sharing)
        self.count = -(-most * place // len(sharing)) if board.is_first(number) else most

    def has_come(self, served: int) -> Why | None:
        """Why to leave now, None to stay; when it says so, the board already shows the slot as not ready.

        Counts drift (a death, a slower neighbour), so whoever wants to leave still waits for neighbours that load.
        """
        why = self._wish(served)
        if why is None or not self._neighbours:
            return why
        # First tell, then look: of two that come here at the same moment at least one sees that the other leaves.
        self._board.leaving(self._number)
        if self._board.are_ready(self._neighbours):
            return why
        self._board.proved(self._number, os.getpid())
        return None

    def _wish(self, served: int) -> Why | None:
        if served >= self.count:
            return {"reason": "chunks"}
        if self._looked[0] != served:  # asked every second while nothing is to do: nothing grows meanwhile
            self._looked = (served, self._grown(served))
        return self._looked[1]


def leave_in_turn(process: Any, turn: Turn) -> None:
    """Make this pool process leave when its turn has come, between two chunks, as if billiard had counted.

    Call it in worker_process_init, before billiard's loop takes its `wait_for_job`. Raises AttributeError when the
    process is none of billiard's.
    """
    pool_worker = process._target  # billiard.pool.Worker; nothing public leads to it
    wait = pool_worker.wait_for_job
    served = 0

    def wait_for_job() -> Any:
        nonlocal served
        why = turn.has_come(served)
        if why is not None:
            meters().recycles.labels(COUNTED.get(str(why["reason"]), "other")).inc()
            log.info("worker process recycled", pid=os.getpid(), chunks=served, **why)
            sys.exit(EX_RECYCLE)  # billiard's own way out: results are flushed, the pool makes a replacement
        request = wait()
        served += request is not None
        return request

    pool_worker.wait_for_job = wait_for_job
