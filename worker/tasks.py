"""The task: decode the message, claim the chunk, judge, record. The only retry policy of the system is here."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NoReturn, TypeVar

from celery.exceptions import SoftTimeLimitExceeded

from audit.errors import LedgerUnavailable, PoisonedProcess, Transient
from audit.message import ChunkMessage
from audit.pair import Pair, Row
from audit.settings import Settings
from audit.verdict import Failure, Outcome
from db.claim import Refusal, claim
from db.engine import Database
from db.lease import Claim, Claimant, mark, release, renew
from db.record import Recorded, record
from db.tables import ChunkState
from worker.deaths import EX_LET_GO
from worker.judging import Desk, Looked, judge_pairs, look, settle
from worker.limits import SoftLimit
from worker.pictures import CarefulPictures, Pictures, quick_pictures
from worker.telemetry import logger

T = TypeVar("T")
log = logger(__name__)
CLAIM_PATIENCE_S = 30.0
RECORD_PATIENCE_S = 300.0
"""How long results are held while the ledger is away; after that they are judged anew."""
EX_SICK = 70
"""Exit status of a child that must not judge on; the pool replaces it with one that proves its model first."""


class Ending(StrEnum):
    """How a task ended; logged, and nothing else."""

    DONE = "done"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    FENCED = "fenced"
    RELEASED = "released"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """All that one worker process needs to work on chunks.

    `stopping` turns true when the worker is asked to stop, or to give back the chunk in hand; `begin` forgets a request
    that met no chunk. `progressed` and `idle` tell the main process that this one is not stuck, `holding` which rows it
    has in hand should it die, `marked` that its death would be a pair's (or a limit's), `healthy` that it is not sick.
    """

    database: Database
    claimant: Claimant
    desk: Desk
    settings: Settings
    stopping: Callable[[], bool]
    begin: Callable[[], None]
    progressed: Callable[[], None]
    idle: Callable[[], None]
    holding: Callable[[int, int], None]
    marked: Callable[[], None]
    healthy: Callable[[], None]
    limit: SoftLimit = field(default_factory=SoftLimit)


class _TakenOver(Exception):
    """The lease is somebody else's now: stop, and write nothing."""

    def __str__(self) -> str:
        return "another process has taken it over"


class _Cancelled(_TakenOver):
    """The batch was cancelled; what had been judged is recorded."""

    def __str__(self) -> str:
        return "its batch was cancelled"


def judge_chunk(message: ChunkMessage, office: Office) -> Ending:
    """Claim the chunk and bring each of its pairs to an outcome, as far as this process can.

    Leaves the process (and does not return) when it must not be trusted, or when it holds a chunk that it can neither
    finish nor give back: a dead holder is noticed at once, a living one only when its lease ends.
    """
    office.begin()
    office.limit.install()
    office.progressed()
    try:
        return _claim_and_judge(message, office)
    except SoftTimeLimitExceeded:
        _leave("soft time limit")
    except Exception:
        log.exception("chunk failed", batch=message.batch, chunk=message.chunk)
        _leave("unexpected error")
    finally:
        office.idle()


def _claim_and_judge(message: ChunkMessage, office: Office) -> Ending:
    told = {"batch": message.batch, "chunk": message.chunk}
    began = time.monotonic()
    try:
        held = _patiently(lambda: claim(office.database, message, office.claimant), office, CLAIM_PATIENCE_S)
    except LedgerUnavailable as error:
        log.warning("chunk not claimed", reason=error.detail, **told)
        return Ending.GIVEN_UP
    if isinstance(held, Refusal):
        log.log(_level(held), "chunk not claimable", reason=held.value, **told)
        return Ending.REFUSED
    log.debug("chunk claimed", attempt=held.attempt, careful=held.careful, pairs=len(held.pairs), **told)
    try:
        ending = _judge(held, office)
    except _TakenOver as taken:
        ending = Ending.CANCELLED if isinstance(taken, _Cancelled) else Ending.FENCED
    except LedgerUnavailable as error:
        _leave(f"results given up: {error.detail}", EX_LET_GO)
    took_s = round(time.monotonic() - began, 3)
    log.info("chunk ended", ending=ending.value, attempt=held.attempt, careful=held.careful, took_s=took_s, **told)
    return ending


def _judge(held: Claim, office: Office) -> Ending:
    if not os.path.isdir(held.image_root):
        # One host that has lost its mount must not write file_missing for a million pairs that are fine elsewhere.
        log.error("image folder is missing", folder=held.image_root, batch=held.batch, chunk=held.chunk)
        return _give_back(held, office, charge=True)
    unsaved: list[Outcome] = []
    try:
        if held.careful:
            _judge_carefully(held, office)
        else:
            _judge_at_full_speed(held, office, unsaved)
        if _save(office, held, unsaved) is Recorded.DONE:
            return Ending.DONE
        return _give_back(held, office, charge=not (office.stopping() or held.left_out))
    except SoftTimeLimitExceeded:
        office.marked()
        _give_back_and_leave(held, office, unsaved, "soft time limit")
    except PoisonedProcess as error:
        _leave(f"process is poisoned: {error.detail}")  # a marker stands: it may be the pair's doing
    except (LedgerUnavailable, _TakenOver):
        raise
    except Transient as error:  # a sick engine, no process to decode in, pictures that are away
        _give_back_and_leave(held, office, unsaved, f"no pair's fault: {error}")
    except Exception:
        # Unknown, so nobody's fault yet: what is judged is kept, and the next attempt goes pair by pair.
        log.exception("chunk failed", batch=held.batch, chunk=held.chunk)
        _give_back_and_leave(held, office, unsaved, "unexpected error")


def _judge_at_full_speed(held: Claim, office: Office, unsaved: list[Outcome]) -> None:
    """Judge in micro-batches; what is judged is committed every third of a lease, which renews it."""
    due_s = held.claimant.lease_s / 3
    renewed = saved = time.monotonic()  # apart: a pass is told of just before its outcomes come, and would delay them

    def progressed() -> None:
        nonlocal renewed
        office.progressed()
        if time.monotonic() - renewed > due_s:
            if not _patiently(lambda: renew(office.database, held), office):
                _save(office, held, unsaved)  # raises: what is judged is kept if it is a cancel that took the lease
            renewed = time.monotonic()

    with quick_pictures(held.image_root, office.settings) as pictures:
        judged = judge_pairs(
            held.pairs,
            desk=office.desk,
            pictures=pictures,
            stopping=office.stopping,
            progressed=progressed,
            holding=office.holding,
        )
        for outcomes in judged:
            unsaved += outcomes
            if time.monotonic() - saved > due_s:
                _save(office, held, unsaved)
                unsaved.clear()
                renewed = saved = time.monotonic()


def _judge_carefully(held: Claim, office: Office) -> None:
    """One pair at a time: a committed marker before it, its outcome after it; suspects last."""
    ordered = sorted(held.pairs, key=lambda pair: (pair.row in held.suspects, pair.row))
    with CarefulPictures(held.image_root, office.settings) as pictures:
        for pair in ordered:
            if office.stopping():
                break
            _mark(held, office, pair.row, "decode")
            outcome = _one_carefully(held, office, pair, pictures)
            _save(office, held, [outcome])
            office.healthy()


def _one_carefully(held: Claim, office: Office, pair: Pair, pictures: Pictures) -> Outcome:
    failure: Failure
    try:
        looked = look(pair, desk=office.desk, pictures=pictures)
    except (SoftTimeLimitExceeded, Transient):
        raise
    except Exception as error:  # noqa: BLE001 - told to the log and to the ledger below
        failure = _blame(error, held, pair)
        return Outcome(row=pair.row, result=failure)
    if not isinstance(looked, Looked):
        return looked
    _mark(held, office, pair.row, "judge")
    try:
        return settle([looked], desk=office.desk)[0]
    except (SoftTimeLimitExceeded, Transient):
        raise
    except Exception as error:  # noqa: BLE001 - as above
        failure = _blame(error, held, pair)
        return looked.outcome(failure)


def _blame(error: Exception, held: Claim, pair: Pair) -> Failure:
    """Alone and repeated, this pair does it, whatever it is: the traceback is for us, the type's name for them."""
    if isinstance(error, MemoryError):
        return Failure(code="out_of_memory", detail="the pair alone needs too much memory")
    log.error("pair failed", batch=held.batch, chunk=held.chunk, row=pair.row, exc_info=error)
    return Failure(code="internal_error", detail=type(error).__name__)


def _save(office: Office, held: Claim, outcomes: list[Outcome]) -> Recorded:
    """Record with patience, a shutdown notwithstanding. Raises _TakenOver when fenced, _Cancelled after a cancel."""
    recorded = _patiently(lambda: record(office.database, held, outcomes), office, until_stopped=False)
    if recorded is Recorded.FENCED:
        raise _TakenOver
    if recorded is Recorded.CANCELLED:
        raise _Cancelled
    return recorded


def _mark(held: Claim, office: Office, row: Row, stage: str) -> None:
    if not _patiently(lambda: mark(office.database, held, row=row, stage=stage), office):
        raise _TakenOver
    office.marked()


def _give_back(held: Claim, office: Office, *, charge: bool) -> Ending:
    state = _patiently(lambda: release(office.database, held, charge=charge), office, until_stopped=False)
    if state is ChunkState.PARKED:
        cure = "mend what the log names, then: caption-audit sweep --parked"
        log.error("chunk parked", batch=held.batch, chunk=held.chunk, cure=cure)
    return Ending.RELEASED


def _patiently(
    work: Callable[[], T], office: Office, patience_s: float = RECORD_PATIENCE_S, *, until_stopped: bool = True
) -> T:
    """Repeat while the ledger does not answer, with growing pauses; raises LedgerUnavailable after `patience_s`.

    The soft limit waits for the end of each try, so that it is never raised inside of a transaction.
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
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 2.0)


def _give_back_and_leave(held: Claim, office: Office, unsaved: list[Outcome], why: str) -> NoReturn:
    """Keep what is judged, give the rest back as a death that blames no pair, and leave: native code may still run."""
    try:
        _save(office, held, unsaved)
        _give_back(held, office, charge=True)
    except (_TakenOver, LedgerUnavailable) as error:
        log.warning("chunk not given back", reason=str(error), batch=held.batch, chunk=held.chunk)
    _leave(why)


def _level(refusal: Refusal) -> int:
    # Unknown: removed by a person, or lost with a ledger that was restored, who then wants to know which batch.
    return {Refusal.PARKED: logging.ERROR, Refusal.UNKNOWN: logging.WARNING}.get(refusal, logging.DEBUG)


def _leave(why: str, status: int = EX_SICK) -> NoReturn:
    log.error("worker process leaves", reason=why, pid=os.getpid())
    logging.shutdown()
    os._exit(status)
