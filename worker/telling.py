"""What this worker tells the ledger of its slots: read off the board, written by housekeeping, for people to read."""

import time
from collections.abc import Sequence

import psutil

from audit.errors import AuditError
from audit.holder import start_ticks, this_process
from audit.pair import BatchId, ChunkNumber
from db.engine import Database
from db.workers import SlotState, SlotTold, leave, tell
from telemetry.logs import logger
from worker.board import Board
from worker.board_news import SlotNews
from worker.slots import Slot

log = logger(__name__)
LONGEST_REASON = 200


class Telling:
    """Tells now and then; a ledger that does not take it costs a look at `caption-audit workers`, and nothing else."""

    def __init__(self, board: Board, slots: Sequence[Slot], *, model: str, worker: str, every_s: float) -> None:
        self._board = board
        self._slots = slots
        self._model = model
        self._worker = worker
        self._every_s = every_s
        self._started = time.monotonic()
        self._told: float | None = None
        self._complained = False
        self.last: tuple[float, Sequence[SlotTold]] = (self._started, ())  # what was told, and when
        self.trouble: str | None = None  # why the ledger did not take it, the last time

    def __call__(self, database: Database) -> None:
        """Tell, when it is time to. Never raises for a ledger that is away, locked or odd."""
        now = time.monotonic()
        if self._told is not None and now - self._told < self._every_s:
            return
        self._told = now
        slots = [self._slot(slot, now) for slot in self._slots]
        self.last = now, slots
        try:
            tell(database, this_process(), self._worker, slots, up_s=now - self._started)
            self.trouble = None
        except AuditError as error:
            self.trouble = error.detail
            log.debug("worker not told of", reason=error.detail)
        except Exception:  # a ledger of an older schema has no such table: judging goes on
            if not self._complained:
                log.warning("worker not told of", exc_info=True)
            self._complained = True

    def leave(self, database: Database) -> None:
        """The worker stops as it should: its rows go, so that only those who were killed stay to be seen."""
        if self._told is None:
            return
        try:
            leave(database, this_process(), self._worker)
        except Exception as error:  # noqa: BLE001 - the rows go by themselves in a day
            log.debug("worker not taken off", reason=str(error))

    def _slot(self, slot: Slot, now: float) -> SlotTold:
        news = self._board.news(slot.number)
        alive = bool(news.pid) and start_ticks(news.pid) is not None
        judging = alive and news.proved and news.batch > 0
        return SlotTold(
            slot=slot.number,
            device=slot.device if slot.device == "cpu" else f"cuda:{slot.device}",
            model=self._model,
            state=_state(news, alive=alive, judging=judging),
            child_pid=news.pid if alive else None,
            model_revision=news.revision or None,
            precision=news.precision or None,
            canary=self._canary(news),
            canary_age_s=now - news.proved_at if news.proved_at else None,
            batch=BatchId(news.batch) if judging else None,
            chunk=ChunkNumber(news.chunk) if judging else None,
            chunk_age_s=now - news.chunk_since if judging else None,
            deaths=news.deaths,
            recycled=news.recycled,
            rss_bytes=_rss(news.pid) if alive else None,
            device_bytes=news.device_bytes or None,
        )

    def _canary(self, news: SlotNews) -> str | None:
        if news.failed_loads:
            return f"failed: {self._board.reason}"[:LONGEST_REASON]
        return "passed" if news.proved_at else None


def told_apart(name: str, pid: int) -> str:
    """The worker's name for the ledger: Celery calls all workers of a host that were given no name alike."""
    given, _, host = name.partition("@")
    return f"{given}-{pid}@{host}" if given == "celery" else name


def _state(news: SlotNews, *, alive: bool, judging: bool) -> SlotState:
    if not alive:
        return SlotState.AWAY
    if not news.proved:
        return SlotState.LOADING
    return SlotState.JUDGING if judging else SlotState.IDLE


def _rss(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
