"""The board: a page of memory that a worker's main process shares with its pool processes.

It is made before the first fork, so every process of the pool has it, replacements too. Each field has one writer at a
time and is read at leisure: no locks.
"""

import ctypes
import mmap
import time

MOST_SLOTS = 256
REASON_BYTES = 600


class _SlotState(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_int64),
        ("ready", ctypes.c_int64),  # pid that judged the canary
        ("failed_loads", ctypes.c_int64),  # in a row
        ("working_since", ctypes.c_double),  # 0 between chunks; else when progress was last made
    )
    pid: int
    ready: int
    failed_loads: int
    working_since: float


class _Page(ctypes.Structure):
    _fields_ = (
        ("draining", ctypes.c_int64),
        ("leave_now", ctypes.c_int64),
        ("exit_status", ctypes.c_int64),
        ("reason", ctypes.c_char * REASON_BYTES),
        ("slots", _SlotState * MOST_SLOTS),
    )


class Board:
    """What main process and children tell each other."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, ctypes.sizeof(_Page))  # anonymous and shared: inherited through fork
        self._page = _Page.from_buffer(self._memory)

    @property
    def draining(self) -> bool:
        """The worker was asked to stop: finish the pair at hand, give the rest back."""
        return bool(self._page.draining)

    @property
    def leave_now(self) -> bool:
        """The worker was told to stop at once."""
        return bool(self._page.leave_now)

    def drain(self, *, now: bool = False) -> None:
        """Main process: stop soon, or at once."""
        self._page.draining = 1
        if now:
            self._page.leave_now = 1

    def started(self, slot: int, pid: int) -> None:
        """Child: this process has the slot, and is not ready yet."""
        state = self._page.slots[slot]
        state.pid, state.ready, state.working_since = pid, 0, 0.0

    def proved(self, slot: int, pid: int) -> None:
        """Child: the model is loaded and has judged the canary pair."""
        state = self._page.slots[slot]
        state.ready, state.failed_loads = pid, 0

    def progressed(self, slot: int) -> None:
        """Child: it has a chunk in hand, and has just got further with it."""
        self._page.slots[slot].working_since = time.monotonic()

    def idle(self, slot: int) -> None:
        """Child: it has no chunk in hand."""
        self._page.slots[slot].working_since = 0.0

    def nobody_works(self, slots: int) -> bool:
        """Whether no process has a chunk in hand."""
        return not any(self._page.slots[slot].working_since for slot in range(slots))

    def stuck(self, slots: int, *, for_s: float) -> list[int]:
        """Pids of processes with a chunk in hand and no progress for so long."""
        now = time.monotonic()  # one clock for all processes of a host
        states = (self._page.slots[slot] for slot in range(slots))
        return [int(state.pid) for state in states if state.working_since and now - state.working_since > for_s]

    def load_failed(self, slot: int, reason: str) -> int:
        """Child: the model could not be loaded this time; returns how often in a row."""
        self._page.slots[slot].failed_loads += 1
        self._page.reason = reason.encode()[: REASON_BYTES - 1]
        return int(self._page.slots[slot].failed_loads)

    def refuse(self, exit_status: int, reason: str) -> None:
        """Child: no use in trying again; the worker is to leave with this status."""
        self._page.reason = reason.encode()[: REASON_BYTES - 1]
        self._page.exit_status = exit_status

    @property
    def refusal(self) -> tuple[int, str] | None:
        """Exit status and reason, once a child has refused."""
        return (int(self._page.exit_status), self.reason) if self._page.exit_status else None

    @property
    def reason(self) -> str:
        """Why the last load failed, in one line."""
        return bytes(self._page.reason).decode(errors="replace")

    def most_failed_loads(self, slots: int) -> int:
        """The longest row of failed loads of any slot."""
        return max(int(self._page.slots[slot].failed_loads) for slot in range(slots))

    def ready_pids(self, slots: int) -> dict[int, int]:
        """Slot number to pid, of processes that have proved their model."""
        states = ((slot, self._page.slots[slot]) for slot in range(slots))
        return {slot: int(state.ready) for slot, state in states if state.ready and state.ready == state.pid}
