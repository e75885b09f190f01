"""What a worker process has at hand for every chunk: its ledger, its engine, and ways to tell the main process."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from audit.errors import LedgerUnavailable
from audit.settings import Settings
from db.engine import Database
from db.lease import Claimant
from telemetry.logs import logger
from worker.canaries import Canaries
from worker.desk import Desk
from worker.limits import SoftLimit
from worker.written import Written

T = TypeVar("T")
log = logger(__name__)
RECORD_PATIENCE_S = 300.0
"""How long results are held while the ledger is away; after that they are judged anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """All that one worker process needs to work on chunks.

    `stopping` turns true when the worker is asked to stop, or to give back the chunk in hand; `begin` forgets a request
    that met no chunk. `progressed` and `idle` tell the main process that this one is not stuck, `holding` which rows it
    has in hand should it die, `marked` that its death would be a pair's (or a limit's), `healthy` that it is not sick.
    `canaries` asks known questions between two passes; `written` is what would have to be taken back.
    """

    database: Database
    claimant: Claimant
    desk: Desk
    canaries: Canaries
    written: Written
    settings: Settings
    stopping: Callable[[], bool]
    begin: Callable[[], None]
    progressed: Callable[[], None]
    idle: Callable[[], None]
    holding: Callable[[int, int], None]
    marked: Callable[[], None]
    healthy: Callable[[], None]
    limit: SoftLimit = field(default_factory=SoftLimit)


def patiently(
    work: Callable[[], T], office: Office, patience_s: float = RECORD_PATIENCE_S, *, until_stopped: bool = True
) -> T:
    """Repeat while the ledger does not answer, with growing pauses; raises LedgerUnavailable after `patience_s`.

    The soft limit waits for the end of each try, so that it is never raised inside of a transaction. Known
    questions are asked between two tries: raises EngineFault, WrongAnswer say.
    """
    began, pause_s = time.monotonic(), 0.1
    give_up_at, waits = began + patience_s, False
    while True:
        office.progressed()  # waiting for the ledger is not being stuck
        try:
            with office.limit.deferred():
                done = work()
        except LedgerUnavailable as error:
            if not waits:
                log.warning("ledger waited for", reason=error.detail, patience_s=patience_s)
            waits = True
            if (until_stopped and office.stopping()) or time.monotonic() + pause_s > give_up_at:
                raise
        else:
            if waits:
                log.info("ledger answers again", waited_s=round(time.monotonic() - began, 1))
            return done
        office.canaries.ask_if_due()
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 2.0)
