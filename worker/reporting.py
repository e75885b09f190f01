"""What the main process tells of itself: into its file, for `caption-audit health`, and on its health pages."""

import json
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any

from audit.holder import start_ticks
from audit.settings import Settings
from worker.board import Board, is_out
from worker.board_news import SlotNews
from worker.health import Health, SlotTold, State, full_disks
from worker.housekeeping import Housekeeper
from worker.pages import Page, Routes
from worker.ready_file import ReadyFile
from worker.resources import Resources
from worker.seen import STALE_S, Probe, WorkerSeen, seen, told_of
from worker.slots import Slot
from worker.telling import Telling

JSON = "application/json"


class Reporting:
    """`tell` once a round; `routes` answer from what was told last, so that HTTP and the command say the same."""

    def __init__(
        self,
        file: ReadyFile,
        board: Board,
        slots: Sequence[Slot],
        *,
        model: str,
        settings: Settings,
        house: Housekeeper,
        telling: Telling,
        pages: Callable[[], str | None],
    ) -> None:
        self._file = file
        self._board = board
        self._slots = slots
        self._model = model
        self._within_s = settings.canary_within_s
        self._waits: Callable[[], str | None] = lambda: house.waits or telling.trouble
        self._pages = pages
        self._resources = Resources(
            settings, slots, redis=lambda: house.redis_away, ledger=lambda: house.ledger_away or telling.trouble
        )

    def tell(self) -> None:
        """Write it down; a disk that does not take it disturbs nothing."""
        slots, board = len(self._slots), self._board
        self._file.write(
            slots=slots,
            ready=board.ready_pids(slots),
            model=self._model,
            waits=self._waits(),
            pages=self._pages(),
            finished=board.finished(slots),
            busy=board.busy(slots),
            seats=[self._seat(slot) for slot in self._slots],
            resources=self._resources(),
        )

    def seen(self) -> WorkerSeen:
        """This worker, as others see it."""
        told, told_at = self._file.last
        return seen(told, wrote_at=told_at, now=time.time())

    def health(self) -> Health:
        """All three depths, as of now."""
        return self.seen().health()

    def routes(self) -> Routes:
        """Pages by path."""
        return {
            "/health": self._details,
            "/health/simple": self._simple,
            "/health/live": lambda: _word(passes=self.seen().wrong(Probe.LIVE, STALE_S) is None),
            "/health/ready": self._ready,
        }

    def _details(self) -> Page:
        body = told_of(self.seen())
        status = HTTPStatus.OK if State(body["state"]).passes else HTTPStatus.SERVICE_UNAVAILABLE
        return Page(status=status, content_type=JSON, body=json.dumps(body, indent=2).encode() + b"\n")

    def _simple(self) -> Page:
        return _word(passes=self.health().state.passes)

    def _ready(self) -> Page:
        worker = self.seen()
        return _word(passes=worker.wrong(Probe.READY, STALE_S) is None and not full_disks(worker.resources))

    def _seat(self, slot: Slot) -> dict[str, Any]:
        news, now = self._board.news(slot.number), time.monotonic()
        limit_s = max(self._within_s, 2 * news.canary_every) if news.canary_every else None
        return {
            "slot": slot.number,
            "device": slot.device,
            "pid": news.pid,
            "told": _told(news, alive=bool(news.pid) and start_ticks(news.pid) is not None),
            "answered_s": round(now - news.proved_at, 1) if news.proved_at else None,
            "limit_s": limit_s,
        }


def _word(*, passes: bool) -> Page:
    status = HTTPStatus.OK if passes else HTTPStatus.SERVICE_UNAVAILABLE
    return Page(status=status, body=b"OK\n" if passes else b"FAIL\n")


def _told(news: SlotNews, *, alive: bool) -> SlotTold:
    if is_out(news.deaths_in_a_row):
        return SlotTold.OUT
    if news.wrong:
        return SlotTold.WRONG
    if news.failed_loads:
        return SlotTold.FAILING
    if news.proved and alive:
        return SlotTold.PROVED
    return SlotTold.LOADING if news.proved_at or news.deaths else SlotTold.STARTING
