"""The task: decode the message, claim the chunk, judge, record. The only retry policy of the system is here."""

import logging
import os
import time
from enum import StrEnum
from typing import NoReturn

from celery.exceptions import SoftTimeLimitExceeded

from audit.errors import LedgerUnavailable, PoisonedProcess, Transient
from audit.message import ChunkMessage
from db.claim import Refusal, claim
from db.lease import Claim
from db.record import Recorded
from telemetry.exporting import flush
from telemetry.log_text import withholding
from telemetry.logs import logger
from telemetry.metrics import meters
from telemetry.stages import about, adding_up, stage
from telemetry.traces import abandon, here, span
from worker import places
from worker.careful_judging import judge_carefully
from worker.deaths import EX_LET_GO, EX_SICK
from worker.distrust import take_back
from worker.engines.canary import WrongAnswer
from worker.images.codes import PICTURES_AWAY
from worker.images.fetch import check_folder
from worker.in_hand import Cancelled, InHand, TakenOver
from worker.judging import judge_pairs
from worker.office import Office, patiently
from worker.pictures import quick_pictures
from worker.told import Effort

log = logger(__name__)
CLAIM_PATIENCE_S = 30.0


class Ending(StrEnum):
    """How a task ended; logged and counted, and nothing else."""

    DONE = "done"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    FENCED = "fenced"
    RELEASED = "released"
    GIVEN_UP = "given_up"
    LEFT = "left"  # the process ended with it


def judge_chunk(message: ChunkMessage, office: Office) -> Ending:
    """Claim the chunk and bring each of its pairs to an outcome, as far as this process can.

    Leaves the process (and does not return) when it must not be trusted, or when it holds a chunk that it can neither
    finish nor give back: a dead holder is noticed at once, a living one only when its lease ends.
    """
    office.begin()
    office.limit.install()
    office.progressed()
    ids = {"batch": message.batch, "chunk": message.chunk}
    with about(**ids), adding_up(), span("chunk", system="redis", operation="process", **ids) as seen:
        try:
            with office.canaries.at_work():
                ending = _claim_and_judge(message, office)
            seen.tell(ending=ending.value)
        except SoftTimeLimitExceeded:
            _leave("soft time limit")
        except Exception:
            log.exception("chunk failed")
            _leave("unexpected error")
        finally:
            office.idle()
    meters().chunks.labels(ending.value).inc()
    return ending


def _claim_and_judge(message: ChunkMessage, office: Office) -> Ending:
    try:
        return _claim(message, office)
    except WrongAnswer as error:  # the ledger was waited for, and nothing is held that could be given back
        _take_back_and_leave(office, error)


def _claim(message: ChunkMessage, office: Office) -> Ending:
    try:
        with stage("ledger", "claim") as seen:
            held = patiently(lambda: claim(office.database, message, office.claimant), office, CLAIM_PATIENCE_S)
            seen.tell(refusal=held.value if isinstance(held, Refusal) else None)
    except LedgerUnavailable as error:
        log.warning("chunk not claimed", reason=error.detail, stage="ledger")
        here().fail(error.code)
        return Ending.GIVEN_UP
    if isinstance(held, Refusal):
        log.log(_level(held), "chunk not claimable", reason=held.value, stage="ledger")
        return Ending.REFUSED
    texts = [text for pair in held.pairs for text in (pair.caption, pair.premise)]
    with about(attempt=held.attempt), withholding(texts):
        return _judge_claimed(held, office)


def _judge_claimed(held: Claim, office: Office) -> Ending:
    effort, chunk = Effort(), InHand(held=held, office=office)
    log.debug("chunk claimed", careful=held.careful, pairs=len(held.pairs))
    here().link(held.traceparent)
    here().tell(attempt=held.attempt, careful=held.careful, pairs=len(held.pairs), queue_wait_s=held.waited_s)
    if held.waited_s is not None:
        meters().queue_wait_seconds.labels(held.lane.value).observe(held.waited_s)
    try:
        ending = _judge(chunk)
    except TakenOver as taken:
        ending = _taken(taken)
    except LedgerUnavailable as error:
        _leave(f"results given up: {error.detail}", EX_LET_GO)
    told = {"ending": ending.value, "careful": held.careful, "pairs": len(held.pairs), "failed": chunk.failed}
    log.info("chunk ended", **told, **effort.told(office.desk.engine))
    return ending


def _judge(chunk: InHand) -> Ending:
    held, office = chunk.held, chunk.office
    try:
        check_folder(held.image_root)
        if held.careful:
            judge_carefully(chunk)
        else:
            _judge_at_full_speed(chunk)
        if chunk.save() is Recorded.DONE:
            office.healthy()
            if held.place_failed:
                places.well(office, held.image_root)
            return Ending.DONE
        chunk.give_back(charge=not (office.stopping() or held.left_out))
    except SoftTimeLimitExceeded:
        office.marked()
        _give_back_and_leave(chunk, "soft time limit", limit=True)
    except WrongAnswer as error:
        _take_back_and_leave(office, error, chunk)
    except PoisonedProcess as error:
        _leave(f"process is poisoned: {error.detail}")  # a marker stands: it may be the pair's doing
    except (LedgerUnavailable, TakenOver):
        raise
    except Transient as error:  # a sick engine, no process to decode in
        if error.code == PICTURES_AWAY:
            return _give_back_until_they_are_back(chunk, error.detail)
        _give_back_and_leave(chunk, f"no pair's fault: {error}")
    except Exception:
        # Unknown, so nobody's fault yet: what is judged is kept, and the next attempt goes pair by pair.
        log.exception("chunk failed")
        _give_back_and_leave(chunk, "unexpected error")
    return Ending.RELEASED


def _judge_at_full_speed(chunk: InHand) -> None:
    """Judge in micro-batches; what is judged is committed every third of a lease, which renews it."""
    held, office = chunk.held, chunk.office
    due_s = held.claimant.lease_s / 3
    renewed = saved = time.monotonic()  # apart: a pass is told of just before its outcomes come, and would delay them

    def progressed() -> None:
        nonlocal renewed
        office.progressed()
        office.canaries.ask_if_due()  # after a picture or a pass: the engine has nothing in hand
        if time.monotonic() - renewed > due_s:
            chunk.renew()
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
            chunk.unsaved += outcomes
            if time.monotonic() - saved > due_s:
                chunk.save()
                renewed = saved = time.monotonic()


def _give_back_until_they_are_back(chunk: InHand, reason: str) -> Ending:
    """Pictures are away: nobody's death. What is judged is kept; the ledger knows before anybody can claim the rest."""
    chunk.save()
    places.away(chunk.office, chunk.held.image_root, reason)
    chunk.give_back(charge=False)
    return Ending.RELEASED


def _give_back_and_leave(chunk: InHand, why: str, *, limit: bool = False) -> NoReturn:
    """Keep what is judged, give the rest back as a death that blames no pair, and leave: native code may still run.

    At the `limit` of a chunk that has got on there was no death: a slow machine needs several attempts for a chunk, and
    must not park it.
    """
    try:
        chunk.save()
        chunk.give_back(charge=not (limit and chunk.got_on))
    except (TakenOver, LedgerUnavailable) as error:
        if isinstance(error, TakenOver):
            _taken(error)
        log.warning("chunk not given back", reason=str(error), stage="ledger")
    _leave(why)


def _take_back_and_leave(office: Office, error: WrongAnswer, chunk: InHand | None = None) -> NoReturn:
    """Whatever was judged since the last right answer and is not recorded yet is judged anew, and no pair is blamed.

    The chunk is charged where a pair came first: one that spoils every engine would else go from process to process.
    """
    office.canaries.failed(error)
    take_back(office)
    if chunk is not None:
        chunk.unsaved.clear()
        try:
            chunk.give_back(charge=error.after_a_pair)
        except (TakenOver, LedgerUnavailable) as trouble:
            log.warning("chunk not given back", reason=str(trouble))
    _leave("a known question was answered wrongly")


def _taken(why: TakenOver) -> Ending:
    if isinstance(why, Cancelled):
        return Ending.CANCELLED
    meters().leases_lost.inc()
    return Ending.FENCED


def _level(refusal: Refusal) -> int:
    # Unknown: removed by a person, or lost with a ledger that was restored, who then wants to know which batch.
    return {Refusal.PARKED: logging.ERROR, Refusal.UNKNOWN: logging.WARNING}.get(refusal, logging.DEBUG)


def _leave(why: str, status: int = EX_SICK) -> NoReturn:
    meters().chunks.labels(Ending.LEFT.value).inc()
    log.error("worker process leaves", reason=why, pid=os.getpid())
    abandon(why.partition(":")[0])
    flush()
    logging.shutdown()
    os._exit(status)
