"""The board: a page of memory that a worker's main process shares with its pool processes.

It is made before the first fork, so every process of the pool has it, replacements too. Each field has one writer at a
time and is read at leisure: no locks.
"""

import mmap
import time
from collections.abc import Iterable
from ctypes import sizeof
from dataclasses import dataclass

from audit.holder import start_ticks
from worker.board_page import NAME_BYTES, REASON_BYTES, Page

DOUBTED_AFTER = 2
OUT_AFTER = 8


def is_doubted(deaths: int) -> bool:
    """Whether after so many deaths in a row a slot's engine is to be proved again."""
    return deaths >= DOUBTED_AFTER


def is_out(deaths: int) -> bool:
    """Whether after so many deaths in a row nobody is to work at a slot any more."""
    return deaths >= OUT_AFTER


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotNews:
    """What a slot's processes have said of themselves; times are monotonic, 0 or None for never."""

    pid: int
    ticks: int
    hand: tuple[int, int] | None
    proved: bool
    failed_loads: int
    batch: int
    chunk: int
    chunk_since: float
    proved_at: float
    deaths: int
    recycled: int
    device_bytes: int
    revision: str
    precision: str


class Board:
    """What main process and children tell each other."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, sizeof(Page))  # anonymous and shared: inherited through fork
        self._page = Page.from_buffer(self._memory)

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
        if state.pid and state.left_pid == state.pid:
            state.recycled += 1
        elif state.pid:
            state.deaths += 1
        state.pid, state.ready, state.working_since = pid, 0, 0.0
        state.ticks = start_ticks(pid) or 0
        state.hand_first = state.hand_last = -1
        state.batch = state.device_bytes = state.asked_batch = state.explained = 0
        state.processes += 1

    def died(self, slot: int) -> int:
        """Main process: the slot's process died; returns how many in a row did that no pair explains."""
        state = self._page.slots[slot]
        if not state.explained:
            state.deaths_in_a_row += 1
        return int(state.deaths_in_a_row)

    def healthy(self, slot: int) -> None:
        """Child: it has finished a chunk, or judged a pair alone."""
        state = self._page.slots[slot]
        state.deaths_in_a_row = 0
        state.finished += 1

    def marked(self, slot: int) -> None:
        """Child: a pair's marker is committed, so its death from now on is the pair's.

        But not when it is the second of this slot in a row: so much doubt is worth another look at the engine.
        """
        state = self._page.slots[slot]
        state.explained = int(state.deaths_in_a_row != 1)

    def deaths_in_a_row(self, slot: int) -> int:
        """How many processes of the slot died one after the other, none of them of a pair."""
        return int(self._page.slots[slot].deaths_in_a_row)

    def is_first(self, slot: int) -> bool:
        """Whether nobody had the slot before the process that has it now."""
        return int(self._page.slots[slot].processes) == 1

    def leaving(self, slot: int) -> None:
        """Child: about to make room for its replacement; `proved` takes it back."""
        self._page.slots[slot].ready = 0

    def proved(self, slot: int, pid: int) -> None:
        """Child: the model is loaded and has judged the canary pair."""
        state = self._page.slots[slot]
        state.ready, state.failed_loads = pid, 0

    def are_ready(self, slots: Iterable[int]) -> bool:
        """Whether each of these slots has a process that has proved its model; slots that are out do not count."""
        states = [state for state in map(self._page.slots.__getitem__, slots) if not is_out(state.deaths_in_a_row)]
        return all(state.ready and state.ready == state.pid for state in states)

    def loaded(self, slot: int, *, revision: str, precision: str) -> None:
        """Child: what it has just loaded, and the canary passed."""
        state = self._page.slots[slot]
        state.revision, state.precision = (name.encode()[: NAME_BYTES - 1] for name in (revision, precision))
        state.proved_at = time.monotonic()

    def left(self, slot: int, pid: int) -> None:
        """Child: it leaves as it should, to be replaced."""
        self._page.slots[slot].left_pid = pid

    def took(self, slot: int, *, batch: int, chunk: int) -> None:
        """Child: it looks at this chunk, and will have it in hand unless it is refused."""
        state = self._page.slots[slot]
        state.asked_batch = 0
        state.batch, state.chunk, state.chunk_since = batch, chunk, time.monotonic()
        state.explained = 0

    def holds(self, slot: int, first: int, last: int) -> None:
        """Child, at full speed: a pair of these rows is at hand, should it die now."""
        state = self._page.slots[slot]
        state.hand_first, state.hand_last = first, last

    def ask_back(self, slot: int, *, batch: int, chunk: int) -> None:
        """Main process: the slot is to keep what it has judged of this chunk, and to give back the rest."""
        state = self._page.slots[slot]
        state.asked_batch, state.asked_chunk = batch, chunk

    def is_asked_back(self, slot: int) -> bool:
        """Child: whether the chunk in hand is to be given back."""
        state = self._page.slots[slot]
        return bool(state.asked_batch) and (state.asked_batch, state.asked_chunk) == (state.batch, state.chunk)

    def uses(self, slot: int, *, device_bytes: int) -> None:
        """Child: how much of its device's memory it holds."""
        self._page.slots[slot].device_bytes = device_bytes

    def progressed(self, slot: int) -> None:
        """Child: it has a chunk in hand, and has just got further with it."""
        self._page.slots[slot].working_since = time.monotonic()

    def idle(self, slot: int) -> None:
        """Child: it has no chunk in hand."""
        state = self._page.slots[slot]
        state.working_since, state.batch = 0.0, 0
        state.hand_first = state.hand_last = -1

    def news(self, slot: int) -> SlotNews:
        """Main process: what is to be told of a slot."""
        state = self._page.slots[slot]
        return SlotNews(
            pid=int(state.pid),
            ticks=int(state.ticks),
            hand=(int(state.hand_first), int(state.hand_last)) if state.hand_first >= 0 else None,
            proved=bool(state.ready) and state.ready == state.pid,
            failed_loads=int(state.failed_loads),
            batch=int(state.batch),
            chunk=int(state.chunk),
            chunk_since=float(state.chunk_since),
            proved_at=float(state.proved_at),
            deaths=int(state.deaths),
            recycled=int(state.recycled),
            device_bytes=int(state.device_bytes),
            revision=bytes(state.revision).decode(errors="replace"),
            precision=bytes(state.precision).decode(errors="replace"),
        )

    def finished(self, slots: int) -> int:
        """How often any of the slots has finished a chunk, or judged a pair alone, since the worker started."""
        return sum(int(self._page.slots[slot].finished) for slot in range(slots))

    def busy(self, slots: int) -> int:
        """How many slots have a chunk in hand."""
        return sum(bool(self._page.slots[slot].working_since) for slot in range(slots))

    def nobody_works(self, slots: int) -> bool:
        """Whether a process waits for work, and none has a chunk in hand; while all of them load, nobody waits."""
        states = [self._page.slots[slot] for slot in range(slots)]
        ready = any(state.ready and state.ready == state.pid for state in states)
        return ready and not any(state.working_since for state in states)

    def stuck(self, slots: int, *, for_s: float) -> list[int]:
        """Pids of processes with a chunk in hand and no progress for so long."""
        now = time.monotonic()  # one clock for all processes of a host
        states = (self._page.slots[slot] for slot in range(slots))
        return [int(state.pid) for state in states if state.working_since and now - state.working_since > for_s]

    def load_failed(self, slot: int, reason: str) -> int:
        """Child: the model could not be loaded this time; returns how often in a row."""
        self._page.slots[slot].failed_loads += 1
        self._page.reason = reason.encode(errors="backslashreplace")[: REASON_BYTES - 1]
        return int(self._page.slots[slot].failed_loads)

    def refuse(self, exit_status: int, reason: str) -> None:
        """Child: no use in trying again; the worker is to leave with this status."""
        self._page.reason = reason.encode(errors="backslashreplace")[: REASON_BYTES - 1]
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
