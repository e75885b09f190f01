"""What the main process knows of its children: who is stuck, how others ended, whether it is any use to go on."""

from typing import Any

from audit.settings import Settings
from db.cancel import cancelled_among
from db.engine import Database
from db.sweep import Rules
from worker.board import is_out
from worker.child import Workplace
from worker.deaths import Deaths
from worker.model_pool import LOAD_TRIES
from worker.replacing import replace_at_once

EX_UNAVAILABLE = 69


class Children:
    """The pool's processes as the main process sees them: through the board, and through how they end."""

    def __init__(self, workplace: Workplace, settings: Settings) -> None:
        self._workplace = workplace
        self._settings = settings
        self._deaths = Deaths(workplace.board, len(workplace.slots))

    def watch(self, consumer: Any) -> None:
        """Again and again: with each new connection to Redis the pool is told anew whom to call."""
        # Celery shows no other way to its children's statuses; there is no pool before it starts, nor while it ends.
        pool = getattr(getattr(consumer, "pool", None), "_pool", None)
        if pool is not None:
            self._deaths.watch(pool)
            if consumer.hub is not None:
                replace_at_once(pool, consumer.hub.call_later)

    def limit_fired(self, pid: int) -> None:
        """Celery is about to kill this child; what it has in hand took too long."""
        self._deaths.limit_fired(pid)

    def rules(self, trust_leases: bool) -> Rules:
        """For the sweep: how our own children ended."""
        self._deaths.look()
        return Rules(
            max_deaths=self._settings.max_attempts,
            trust_leases=trust_leases,
            keeper=self._workplace.keeper,
            known=self._deaths.known(),
            hands=self._deaths.hands(),
        )

    def recall(self, database: Database) -> None:
        """Ask for chunks of cancelled batches: their children stop between two micro-batches."""
        board = self._workplace.board
        in_hand = {slot.number: board.news(slot.number) for slot in self._workplace.slots}
        cancelled = cancelled_among(database, {news.batch for news in in_hand.values() if news.batch})
        for slot, news in in_hand.items():
            if news.batch in cancelled:
                board.ask_back(slot, batch=news.batch, chunk=news.chunk)

    def stuck(self) -> list[int]:
        """Pids of those that have not got on for a lease with what they have in hand, or owe an answer for longer."""
        slots, lease_s = len(self._workplace.slots), self._settings.lease_s
        # A lease after it has turned red: whoever was only paused has had the time to answer.
        silent_s = self._settings.canary_within_s + lease_s
        pids = self._workplace.board.stuck(slots, for_s=lease_s, silent_s=silent_s)
        return self._deaths.stuck(pids)

    def refusal(self) -> tuple[int, str] | None:
        """Exit status and reason, once they have shown that it is no use going on."""
        board, slots = self._workplace.board, len(self._workplace.slots)
        if board.refusal is None and board.most_failed_loads(slots) >= LOAD_TRIES:
            return EX_UNAVAILABLE, f"the model could not be loaded, {LOAD_TRIES} times: {board.reason}"
        if board.refusal is None and all(is_out(board.deaths_in_a_row(slot)) for slot in range(slots)):
            return EX_UNAVAILABLE, "its processes die one after the other, on every slot: look at its devices"
        return board.refusal

    def nobody_works(self) -> bool:
        """No child has a chunk in hand, though one could."""
        return self._workplace.board.nobody_works(len(self._workplace.slots))
