"""The task: decode the message, claim the chunk, judge, record. The only retry policy of the system is here."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn, TypeVar

from celery.exceptions import SoftTimeLimitExceeded

from audit.errors import EngineFault, LedgerUnavailable, PoisonedProcess, Transient
from audit.message import ChunkMessage
from audit.pair import Pair, Row
from audit.settings import Settings
from audit.verdict import Failure, Outcome
from db.claim import Refusal, claim
from db.engine import Database
from db.lease import Claim, Claimant, mark, release
from db.record import Recorded, record
from worker.judging import Desk, Looked, judge_pairs, look, settle
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
    FENCED = "fenced"
    RELEASED = "released"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """All that one worker process needs to work on chunks.

    `stopping` turns true when the worker is asked to stop; `begin` forgets a request that met no chunk.
    """

    database: Database
    claimant: Claimant
    desk: Desk
    settings: Settings
    stopping: Callable[[], bool]
    begin: Callable[[], None]


class _TakenOver(Exception):
    """The lease is somebody else's now: stop, and write nothing."""


def judge_chunk(message: ChunkMessage, office: Office) -> Ending:
    """Claim the chunk and bring each of its pairs to an outcome, as far as this process can.

    Leaves the process (and does not return) when the engine is sick or a limit fired.
    """
    told = {"batch": message.batch, "chunk": message.chunk}
    began = time.monotonic()
    office.begin()
    try:
        held = patiently(lambda: claim(office.database, message, office.claimant), CLAIM_PATIENCE_S, office.stopping)
    except LedgerUnavailable as error:
        log.warning("chunk not claimed", reason=error.detail, **told)
        return Ending.GIVEN_UP
    if isinstance(held, Refusal):
        log.debug("chunk not claimable", reason=held.value, **told)
        return Ending.REFUSED
    log.debug("chunk claimed", attempt=held.attempt, careful=held.careful, pairs=len(held.pairs), **told)
    try:
        ending = _judge_carefully(held, office) if held.careful else _judge_at_full_speed(held, office)
    except _TakenOver:
        ending = Ending.FENCED
    except LedgerUnavailable as error:
        log.error("results given up", reason=error.detail, **told)
        ending = Ending.GIVEN_UP
    took_s = round(time.monotonic() - began, 3)
    log.info("chunk ended", ending=ending.value, attempt=held.attempt, careful=held.careful, took_s=took_s, **told)
    return ending


def _judge_at_full_speed(held: Claim, office: Office) -> Ending:
    """Judge in micro-batches, commit what is judged every third of a lease, which renews it."""
    unsaved: list[Outcome] = []
    saved_at = time.monotonic()
    try:
        with quick_pictures(held.image_root, office.settings) as pictures:
            for outcomes in judge_pairs(held.pairs, desk=office.desk, pictures=pictures, stopping=office.stopping):
                unsaved += outcomes
                if time.monotonic() - saved_at > held.claimant.lease_s / 3:
                    _save(office, held, unsaved)
                    unsaved, saved_at = [], time.monotonic()
    except SoftTimeLimitExceeded:
        _give_back_and_leave(held, office, unsaved, "soft time limit")
    except (PoisonedProcess, LedgerUnavailable, _TakenOver) as error:
        if isinstance(error, PoisonedProcess):
            _leave(f"process is poisoned: {error.detail}")
        raise
    except EngineFault as error:
        _give_back_and_leave(held, office, unsaved, f"engine is sick: {error.detail}")
    except Exception:
        # Unknown, so nobody's fault yet: what is judged is kept, and the next attempt goes pair by pair.
        log.exception("chunk failed", batch=held.batch, chunk=held.chunk)
        _save(office, held, unsaved)
        release(office.database, held, charge=True)
        return Ending.RELEASED
    return _close(held, office, unsaved)


def _judge_carefully(held: Claim, office: Office) -> Ending:
    """One pair at a time: a committed marker before it, its outcome after it; suspects last."""
    ordered = sorted(held.pairs, key=lambda pair: (pair.row in held.suspects, pair.row))
    try:
        with CarefulPictures(held.image_root, office.settings) as pictures:
            for pair in ordered:
                if office.stopping():
                    break
                _save(office, held, [_one_carefully(held, office, pair, pictures)])
    except SoftTimeLimitExceeded:
        _give_back_and_leave(held, office, [], "soft time limit")
    except PoisonedProcess as error:
        _leave(f"process is poisoned: {error.detail}")  # with its marker standing: it may be the pair's doing
    except (LedgerUnavailable, _TakenOver):
        raise
    except Transient as error:  # a sick engine, or no process to decode in
        _give_back_and_leave(held, office, [], f"no pair's fault: {error}")
    return _close(held, office, [])


def _one_carefully(held: Claim, office: Office, pair: Pair, pictures: Pictures) -> Outcome:
    try:
        _mark(held, office, pair.row, "decode")
        looked = look(pair, desk=office.desk, pictures=pictures)
        if isinstance(looked, Looked):
            _mark(held, office, pair.row, "judge")
            return settle([looked], desk=office.desk)[0]
    except (SoftTimeLimitExceeded, Transient, _TakenOver):
        raise
    except MemoryError:
        return Outcome(
            row=pair.row, result=Failure(code="out_of_memory", detail="the pair alone needs too much memory")
        )
    except Exception as error:
        # Alone and repeated: this pair does it, whatever it is. The traceback is for us, the type's name for them.
        log.exception("pair failed", batch=held.batch, chunk=held.chunk, row=pair.row)
        return Outcome(row=pair.row, result=Failure(code="internal_error", detail=type(error).__name__))
    return looked


def _close(held: Claim, office: Office, unsaved: list[Outcome]) -> Ending:
    """Record the rest; what has no outcome because of a shutdown goes back without charging the attempt."""
    if _save(office, held, unsaved) is Recorded.DONE:
        return Ending.DONE
    patiently(lambda: release(office.database, held, charge=not office.stopping()), RECORD_PATIENCE_S, office.stopping)
    return Ending.RELEASED


def _save(office: Office, held: Claim, outcomes: list[Outcome]) -> Recorded:
    """Record with patience; a limit that fires meanwhile is delivered afterwards. Raises _TakenOver when fenced."""
    with _limits_deferred():
        recorded = patiently(lambda: record(office.database, held, outcomes), RECORD_PATIENCE_S, lambda: False)
    if recorded is Recorded.FENCED:
        raise _TakenOver
    return recorded


def _mark(held: Claim, office: Office, row: Row, stage: str) -> None:
    with _limits_deferred():
        still_ours = patiently(
            lambda: mark(office.database, held, row=row, stage=stage), RECORD_PATIENCE_S, office.stopping
        )
    if not still_ours:
        raise _TakenOver


def patiently(work: Callable[[], T], patience_s: float, stopping: Callable[[], bool]) -> T:
    """Repeat while the ledger does not answer, with growing pauses; raises LedgerUnavailable after `patience_s`."""
    give_up_at, pause_s = time.monotonic() + patience_s, 0.1
    while True:
        try:
            return work()
        except LedgerUnavailable:
            if stopping() or time.monotonic() + pause_s > give_up_at:
                raise
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 2.0)


@contextmanager
def _limits_deferred() -> Iterator[None]:
    """Keep Celery's soft limit (SIGUSR1) out of a transaction: it would be raised between any two lines of it."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _give_back_and_leave(held: Claim, office: Office, unsaved: list[Outcome], why: str) -> NoReturn:
    """Keep what is judged, give the rest back as a death that blames no pair, and leave: native code may still run."""
    try:
        _save(office, held, unsaved)
        release(office.database, held, charge=True)
    except (_TakenOver, LedgerUnavailable) as error:
        log.warning("chunk not given back", reason=str(error), batch=held.batch, chunk=held.chunk)
    _leave(why)


def _leave(why: str) -> NoReturn:
    log.error("worker process leaves", reason=why, pid=os.getpid())
    logging.shutdown()
    os._exit(EX_SICK)
