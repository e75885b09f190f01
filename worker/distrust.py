"""After a wrong answer to a known question: what the process put into the cache goes, and people are told the rest."""

import time
from collections.abc import Callable

from audit.errors import LedgerUnavailable
from db.cache import by_hand, forget, ledger_time, verdicts_of
from telemetry.logs import logger
from worker.office import Office, patiently

log = logger(__name__)
IDLE_PATIENCE_S = 30.0
"""How long an idle process waits for a ledger that is away; a busy one is as patient as with outcomes."""


def take_back(office: Office) -> None:
    """Main thread: drop this process's entries of the cache, and name its verdicts since its last right canary."""
    _tell(office, lambda work: patiently(work, office, until_stopped=False))


def take_back_idle(office: Office) -> None:
    """The same for a process without a chunk, in any thread of it."""

    def patiently_idle(work: Callable[[], int]) -> int:
        give_up_at = time.monotonic() + IDLE_PATIENCE_S
        while True:
            try:
                return work()
            except LedgerUnavailable:
                if time.monotonic() > give_up_at:
                    raise
            time.sleep(1.0)

    _tell(office, patiently_idle)


def _tell(office: Office, patient: Callable[[Callable[[], int]], int]) -> None:
    written, worker = office.written, office.claimant.provenance.worker
    now = time.monotonic()
    began_s, trusted_s = now - written.began_at, now - written.trusted_at
    keys = written.keys
    since = time.time() - trusted_s  # by this machine's clock, until the ledger has told its own

    def drop() -> int:
        nonlocal since
        there = ledger_time(office.database)
        since = there - (time.monotonic() - now) - trusted_s
        return forget(office.database, keys, since=there - (time.monotonic() - now) - began_s)

    told: dict[str, object]
    try:
        told = {"cache_entries_dropped": patient(drop)}
    except LedgerUnavailable as error:
        began = time.time() - (time.monotonic() - now) - began_s
        told = {"cache_entries_left": "all" if keys is None else len(keys), "why": error.detail}
        told |= {"cure": by_hand(since=began)}
    log.critical(
        "verdicts to look at",
        verdicts=written.verdicts,
        worker=worker,
        find=verdicts_of(worker, since=since),
        **told,
    )
