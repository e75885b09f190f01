"""The board: a page of memory that a worker's main process shares with its pool processes.

It is made before the first fork, so every process of the pool has it, replacements too. Each field has one writer at a
time and is read at leisure: no locks.
"""

import mmap
import time
from collections.abc import Iterable
from ctypes import sizeof

from audit.holder import start_ticks
from worker.board_news import SlotNews, news_of
from worker.board_page import NAME_BYTES, REASON_BYTES, Page

DOUBTED_AFTER = 2
OUT_AFTER = 8
WRONG_LATELY_S = 3600.0
"""A chunk that was finished forgives a slot its deaths, but no wrong answer of the last hour: it may be wrong too."""


def is_doubted(deaths: int) -> bool:
    """Whether after so many deaths in a row a slot's engine is to be proved again."""
    return deaths >= DOUBTED_AFTER


def is_out(deaths: int) -> bool:
    """Whether after so many deaths in a row nobody is to work at a slot any more."""
    return deaths >= OUT_AFTER


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
        state.batch = state.device_bytes = state.asked_batch = state.explained = state.wrong = 0
        state.asking_since = 0.0
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
        state.deaths_in_a_row = self.wrong_lately(slot)
        state.finished += 1

    def marked(self, slot: int) -> None:
        """Child: a pair's marker is committed, so its death from now on is the pair's.

        But not when it is the second of this slot in a row: so much doubt is worth another look at the engine.
        """
        state = self._page.slots[slot]
        state.explained = int(state.deaths_in_a_row != 1)

    def wrong_lately(self, slot: int) -> int:
        """How many known questions the slot's processes have answered wrongly, each within an hour of the last one."""
        state = self._page.slots[slot]
        recent = state.wrong_answers and time.monotonic() - state.wrong_at < WRONG_LATELY_S
        return int(state.wrong_answers) if recent else 0

    def answered_wrongly(self, slot: int) -> None:
        """Child: to a known question; it is going to leave, and no pair explains that."""
        state = self._page.slots[slot]
        state.wrong_answers = self.wrong_lately(slot) + 1
        state.wrong, state.wrong_at, state.explained = 1, time.monotonic(), 0

    def answered_rightly(self, slot: int) -> None:
        """Child: to a known question, some time after it was loaded."""
        self._page.slots[slot].proved_at = time.monotonic()

    def asks(self, slot: int) -> None:
        """Child: a known question is being asked; should it die of that, no pair did it."""
        state = self._page.slots[slot]
        state.asking_since, state.explained = time.monotonic(), 0

    def asked(self, slot: int) -> None:
        """Child: it has been answered, in whatever way."""
        self._page.slots[slot].asking_since = 0.0

    def canary_every(self, slot: int, seconds: float) -> None:
        """Child: how often it asks one; 0 for never."""
        self._page.slots[slot].canary_every = seconds

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
        return news_of(self._page.slots[slot])

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

    def stuck(self, slots: int, *, for_s: float, silent_s: float = 0.0) -> list[int]:
        """Pids of processes with a chunk, or a known question, in hand and no progress for so long.

        And of those that owe an answer to a known question for `silent_s` (0: any), as one that was stopped does.
        """
        now = time.monotonic()  # one clock for all processes of a host
        found = []
        for state in map(self._page.slots.__getitem__, range(slots)):
            since = [since for since in (state.working_since, state.asking_since) if since]
            owes_s = now - state.proved_at if state.canary_every and state.ready == state.pid else 0.0
            overdue = silent_s and owes_s > max(silent_s, 2 * state.canary_every)
            if any(now - began > for_s for began in since) or overdue:
                found.append(int(state.pid))
        return found

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
