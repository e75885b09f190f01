"""Giving way: a worker whose slots are all busy with long chunks frees one for what should have gone before them."""

import time

from audit.pair import BatchId, ChunkNumber
from audit.settings import Settings
from db.engine import Database
from db.yielding import Held, who_yields
from telemetry.logs import logger
from worker.board import Board

log = logger(__name__)


class GivingWay:
    """Looks once a round, in the main process, and asks at most one slot at a time.

    Every slot has to have worked for AUDIT_YIELD_S on what it holds, so whoever gives way has got on, and two chunks
    cannot push each other out without end.
    """

    def __init__(self, board: Board, slots: int, *, model: str, settings: Settings) -> None:
        self._board = board
        self._slots = slots
        self._model = model
        self._after_s = settings.yield_s
        self._lost_s = max(settings.resend_s, 2 * settings.yield_s)

    def __call__(self, database: Database) -> None:
        """Ask a slot to give way, if it has to. Raises LedgerUnavailable."""
        held = self._all_busy() if self._after_s else {}
        if not held:
            return
        chosen = who_yields(database, model=self._model, held=held.keys(), waits_s=self._after_s, lost_s=self._lost_s)
        if chosen is not None:
            batch, chunk = chosen
            log.info("chunk asked to give way", batch=batch, chunk=chunk)
            self._board.ask_back(held[chosen], batch=batch, chunk=chunk)

    def _all_busy(self) -> dict[Held, int]:
        """Chunks in hand and their slots; empty unless every ready slot has worked for long, and none was asked yet."""
        now = time.monotonic()
        held: dict[Held, int] = {}
        for slot in range(self._slots):
            news = self._board.news(slot)
            if not news.proved:
                continue
            long = news.batch and now - news.chunk_since > self._after_s
            if not long or self._board.is_asked_back(slot):
                return {}
            held[BatchId(news.batch), ChunkNumber(news.chunk)] = slot
        return held
