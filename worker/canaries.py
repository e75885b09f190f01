"""Known questions, asked of a loaded engine again and again: does it still answer as it did?

A busy process asks between two passes, in its main thread, which holds the engine for the length of a chunk. An idle
one waits in billiard's loop for its next task, so a thread asks in its place. One question at a time, in turn.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from audit.errors import EngineFault, OutOfDeviceMemory, PoisonedProcess
from telemetry.logs import logger
from telemetry.metrics import meters
from worker.board import Board
from worker.device_lock import DeviceLock
from worker.engines.base import Engine
from worker.engines.canary import Known, WrongAnswer, ask_again
from worker.written import Written

log = logger(__name__)
TIMES = 50
"""From one question to the next passes at least so often what one takes: 2 % of a slow model's time, at most."""
CLOSE_S = 5.0
"""Longest that a process which leaves waits for a question that is being asked, and for what a wrong answer entails."""


class Canaries:
    """One process's. Whoever computes holds `at_work()`: an engine is for one thread at a time."""

    def __init__(
        self,
        engine: Engine,
        known: Sequence[Known],
        *,
        board: Board,
        slot: int,
        every_s: float,
        written: Written,
        device: DeviceLock | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._known = deque(known)
        self._board = board
        self._slot = slot
        self._wanted_s = every_s
        self._written = written
        self._device = device
        self._clock = clock
        self._took: deque[float] = deque(maxlen=2)
        self._due_at = clock() + every_s
        self._lock = threading.Lock()
        self._over = False
        board.canary_every(slot, self.every_s)

    @property
    def every_s(self) -> float:
        """How often one is asked; 0 for never. The shorter of two counts: one may have met a pause of the machine."""
        return max(self._wanted_s, TIMES * min(self._took, default=0.0)) if self._wanted_s else 0.0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """For the length of a chunk: the engine is this thread's. May wait for one question to be answered."""
        with self._lock:
            yield

    def ask_if_due(self) -> None:
        """Ask, if it is time to; call it between two passes, with the engine in hand.

        Raises WrongAnswer when nothing that was judged lately may be recorded, EngineFault when the process must leave.
        """
        if self._wanted_s and not self._over and not self._board.draining and self._clock() >= self._due_at:
            self._ask()

    def failed(self, error: WrongAnswer) -> None:
        """Say what was answered wrongly; from now on nothing more is asked."""
        self._over = True
        self._board.answered_wrongly(self._slot)
        meters().canaries.labels("wrong").inc()
        log.critical("canary answered wrongly", slot=self._slot, code=error.code, reason=error.detail, **error.told)

    def ask_while_idle(self, fault: Callable[[Exception], None]) -> None:
        """Start the thread; `fault` is called in it, with the engine in hand, for whatever ask_if_due() raises."""
        if self._wanted_s:
            threading.Thread(target=self._watch, args=(fault,), name="canary", daemon=True).start()

    def close(self) -> None:
        """The process leaves: nothing more is asked. Waits for what is under way, for a few seconds."""
        self._over = True
        if self._lock.acquire(timeout=CLOSE_S):
            self._lock.release()

    def _watch(self, fault: Callable[[Exception], None]) -> None:
        while not self._over:
            time.sleep(max(0.05, self._due_at - self._clock()))
            with self._lock:  # while a chunk is in hand its thread asks, and this one waits here
                try:
                    self.ask_if_due()
                except Exception as error:  # noqa: BLE001 - told by whoever is called
                    fault(error)
                    return

    def _ask(self) -> None:
        known = self._known[0]
        self._known.rotate(-1)
        began, fits = self._clock(), True
        problem: PoisonedProcess | None = None
        self._board.asks(self._slot)
        try:
            with self._device.passing(self._engine.release_memory) if self._device else nullcontext():
                ask_again(self._engine, known)
        except OutOfDeviceMemory:
            fits = False  # released outside of the except block: the error's frames hold tensors
        except PoisonedProcess as error:
            problem = error
        finally:
            self._took.append(self._clock() - began)
            self._due_at = self._clock() + self.every_s
            self._board.canary_every(self._slot, self.every_s)
            self._board.asked(self._slot)
        if problem is not None:  # by no pair: none is in hand
            raise EngineFault(problem.code, problem.detail)
        if not fits:
            self._engine.release_memory()
            log.warning("canary not asked", slot=self._slot, reason="no room on the device")
            return
        self._written.trusted()
        self._board.answered_rightly(self._slot)
        meters().canaries.labels("right").inc()
