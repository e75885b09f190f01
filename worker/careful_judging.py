"""Judging after a death: one pair at a time, so that the ledger knows which one was at hand."""

from celery.exceptions import SoftTimeLimitExceeded

from audit.errors import Transient
from audit.pair import Pair
from audit.verdict import Failure, Outcome
from telemetry.logs import logger
from worker.in_hand import InHand
from worker.judging import Looked, in_time, look, settle
from worker.pictures import CarefulPictures, Pictures
from worker.told import tell_pairs

log = logger(__name__)


def judge_carefully(chunk: InHand) -> None:
    """One pair at a time: a committed marker before it, its outcome after it; suspects last."""
    held, office = chunk.held, chunk.office
    ordered = sorted(held.pairs, key=lambda pair: (pair.row in held.suspects, pair.row))
    with CarefulPictures(held.image_root, office.settings) as pictures:
        for pair in ordered:
            if office.stopping():
                break
            chunk.mark(pair.row, "decode")
            chunk.unsaved.append(_one_carefully(chunk, pair, pictures))
            chunk.save()
            office.healthy()
            office.canaries.ask_if_due()  # here no marker stands that could blame a pair for it


def _one_carefully(chunk: InHand, pair: Pair, pictures: Pictures) -> Outcome:
    failure: Failure
    desk = chunk.office.desk
    try:
        looked = look(pair, desk=desk, pictures=pictures)
    except (SoftTimeLimitExceeded, Transient):
        raise
    except Exception as error:  # noqa: BLE001 - told to the log and to the ledger below
        failure = _blame(error, pair)
        return Outcome(row=pair.row, result=failure)
    if not isinstance(looked, Looked):
        tell_pairs([looked], [looked], desk=desk)
        return looked
    chunk.mark(pair.row, "judge")
    try:
        outcome = in_time(looked, settle([looked], desk=desk)[0], desk=desk, pictures=pictures)
    except (SoftTimeLimitExceeded, Transient):
        raise
    except Exception as error:  # noqa: BLE001 - as above
        failure = _blame(error, pair)
        return looked.outcome(failure)
    tell_pairs([looked], [outcome], desk=desk)
    return outcome


def _blame(error: Exception, pair: Pair) -> Failure:
    """Alone and repeated, this pair does it, whatever it is: the traceback is for us, the type's name for them."""
    if isinstance(error, MemoryError):
        return Failure(code="out_of_memory", detail="the pair alone needs too much memory")
    log.error("pair failed", pair=pair.row, exc_info=error)
    return Failure(code="internal_error", detail=type(error).__name__)
