"""A pool process: pinned to its device, its model proved, its own connection to the ledger."""

import gc
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from logging import CRITICAL, ERROR, INFO
from types import FrameType
from typing import NoReturn

from audit.errors import AuditError, DeviceTooSmall, LedgerUnavailable, ModelRefused
from audit.holder import Holder, this_process
from audit.settings import Settings
from audit.verdict import Scores
from db.cache import remembered
from db.engine import Database, open_database
from db.lease import Claimant, Provenance
from telemetry.exporting import flush, start_traces
from telemetry.logs import configure_logs, logger
from telemetry.metrics import meters, take_place
from worker.board import Board, is_doubted
from worker.canaries import Canaries
from worker.deaths import EX_LOAD_FAILED, EX_SICK
from worker.distrust import take_back_idle
from worker.engines.base import Engine
from worker.engines.canary import Known, WrongAnswer
from worker.memory import Growth, device_bytes
from worker.model_pool import Model, cpu_twin, load_engine, make_desk, prove_again, provenance_of
from worker.office import Office
from worker.recycling import Turn
from worker.sick import wait_for_others
from worker.slots import Slot
from worker.start_facts import start_facts
from worker.written import Written

log = logger(__name__)
SHORTEST_SILENCE_S = 6.0
"""PostgreSQL may say nothing while a lock is waited for, which ends after 5 s."""
REPLACEMENT_WAIT_S = 2.0
"""Children that leave at once are replaced at once, until Celery gives up with a status of its own."""
REFUSAL_WAIT_S = 10.0
"""Longest that a child waits for the main process to read the board; housekeeping looks every AUDIT_FEED_EVERY_S."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What the parent prepared and every child inherits."""

    settings: Settings
    model: Model
    slots: tuple[Slot, ...]
    board: Board
    keeper: Holder


def open_office(workplace: Workplace, slot_number: int, *, worker: str) -> Office:
    """Make this process ready to judge, or leave it: a child without a proved model must never serve a task."""
    settings, board = workplace.settings, workplace.board
    slot = workplace.slots[slot_number % len(workplace.slots)]
    configure_logs(settings, part=f"worker-slot-{slot.number}")
    if not take_place(slot.number):
        log.warning("counts lost", slot=slot.number, reason="what an earlier process counted here was overwritten")
    if board.draining or board.refusal is not None:
        # The worker is about to end, and this process replaces one that was killed, or said why: no use in loading.
        time.sleep(REPLACEMENT_WAIT_S)
        _leave("the worker is ending", level=INFO)
    board.started(slot_number, os.getpid())
    wait_for_others(board, slot_number, patience_s=settings.canary_limit_s)
    try:
        return _open(workplace, slot, slot_number, worker)
    except ModelRefused as error:
        _refuse(board, error, "model refused")
    except BaseException as error:  # noqa: BLE001 - Celery would swallow it and serve tasks without a model
        meters().model_load_failures.inc()
        if isinstance(error, DeviceTooSmall) and board.is_first(slot_number):
            # Before anybody judged here. A replacement may only have met a neighbour at its peak: that is tried again.
            _refuse(board, error, "model does not fit")
        if is_doubted(board.deaths_in_a_row(slot_number)) or _slots_own_doing(error, workplace, slot_number):
            # One more of this slot's deaths: other slots may be healthy, and the worker need not end for it.
            _leave(f"not proved again: {error!r}", status=EX_SICK)
        failures = board.load_failed(slot_number, str(error) if isinstance(error, AuditError) else repr(error))
        time.sleep(failures)  # backoff; a pool whose children die at once is one that Celery gives up, with status 1
        _leave(f"not ready: {error!r}")


def _open(workplace: Workplace, slot: Slot, slot_number: int, worker: str) -> Office:
    settings, board = workplace.settings, workplace.board
    asked: list[int] = []
    engine, known = _load(workplace, slot, slot_number)
    database = _open_ledger(settings)
    claimant = Claimant(
        holder=this_process(),
        keeper=workplace.keeper,
        provenance=provenance_of(engine, workplace.model, worker=f"{worker}:{slot_number}", slot=slot),
        lease_s=settings.lease_s,
        max_deaths=settings.max_attempts,
    )
    start_traces(_resource(claimant.provenance, slot))
    remember = _remembering(database) if settings.cache else _forgetting
    on_cpu = cpu_twin(workplace.model, settings, slot, engine)
    desk, written = make_desk(engine, settings, slot, remember, on_cpu=on_cpu), Written()
    canaries = Canaries(
        engine,
        known,
        board=board,
        slot=slot_number,
        every_s=settings.canary_every_s,
        written=written,
        device=desk.device,
    )
    office = Office(
        database=database,
        claimant=claimant,
        desk=desk,
        canaries=canaries,
        written=written,
        settings=settings,
        stopping=lambda: board.draining or bool(asked) or board.is_asked_back(slot_number),
        begin=lambda: _watch_term(board, asked),
        progressed=lambda: board.progressed(slot_number),
        idle=lambda: _idle(board, slot_number, engine),
        marked=lambda: board.marked(slot_number),
        healthy=lambda: board.healthy(slot_number),
        holding=lambda first, last: board.holds(slot_number, first, last),
    )
    if is_doubted(board.deaths_in_a_row(slot_number)):
        prove_again(engine, size=office.desk.micro_batch.most)
        log.info("engine proved again", slot=slot_number, pairs=office.desk.micro_batch.most)
    board.uses(slot_number, device_bytes=device_bytes(engine))
    board.loaded(slot_number, revision=engine.card.revision, precision=engine.card.precision)
    gc.freeze()  # what a model and its libraries made stays: nobody is to look through it again and again
    board.proved(slot_number, os.getpid())
    canaries.ask_while_idle(lambda error: _fault_while_idle(office, error))
    return office


def _open_ledger(settings: Settings) -> Database:
    # Eight tries of it stay below a lease: a child that waits for a locked file is not stuck. Nor is one that waits for
    # an answer of PostgreSQL that was lost on the way.
    return open_database(
        settings.ledger_url,
        busy_s=min(5.0, settings.lease_s / 16),
        silent_s=max(SHORTEST_SILENCE_S, settings.lease_s / 2),
    )


def _load(workplace: Workplace, slot: Slot, slot_number: int) -> tuple[Engine, tuple[Known, ...]]:
    """Load and prove the model, and say what it is and how long that took; or that it failed, and why."""
    began, place = time.monotonic(), {"slot": slot_number, "pid": os.getpid()}
    place["load_attempt"] = workplace.board.news(slot_number).failed_loads + 1
    try:
        engine, known = load_engine(workplace.model, workplace.settings, slot)
    except Exception as error:
        refused = isinstance(error, ModelRefused | DeviceTooSmall)
        took_s = round(time.monotonic() - began, 2)
        log.log(CRITICAL if refused else ERROR, "model not loaded", **place, took_s=took_s, exc_info=True)
        raise
    took_s = round(time.monotonic() - began, 2)
    log.info("model proved", **place, took_s=took_s, **start_facts(engine, workplace.model, slot))
    return engine, known


def _resource(provenance: Provenance, slot: Slot) -> dict[str, str | int]:
    """What every span of this process says of who made it."""
    told: dict[str, str | int] = {"caption_audit.slot": slot.number, "service.instance.id": provenance.worker}
    return told | {
        "caption_audit.model": provenance.model,
        "caption_audit.model_revision": provenance.model_revision,
        "caption_audit.engine": provenance.engine,
        "caption_audit.precision": provenance.precision,
        "caption_audit.device": provenance.device,
    }


def turn_of(workplace: Workplace, office: Office, slot_number: int) -> Turn:
    """When this process is to make room for a fresh one."""
    settings = workplace.settings
    growth = Growth(
        engine=office.desk.engine,
        most_rss_bytes=settings.recycle_rss_growth,
        most_device_bytes=settings.recycle_device_growth,
    )
    most = settings.max_tasks_per_child
    return Turn(workplace.board, workplace.slots, number=slot_number, most=most, grown=growth.over)


def _fault_while_idle(office: Office, error: Exception) -> NoReturn:
    """In the thread of the canaries: nothing is in hand that could be given back, and a fresh process comes."""
    try:
        if isinstance(error, WrongAnswer):
            office.canaries.failed(error)
            take_back_idle(office)
    except Exception:
        log.exception("wrong answer not followed up")
    _leave(f"a known question was not answered: {error!r}", status=EX_SICK)


def _slots_own_doing(error: BaseException, workplace: Workplace, slot_number: int) -> bool:
    """Whether a load that failed speaks against the slot's device, and not against the model or the whole worker."""
    board = workplace.board
    others = board.ready_pids(len(workplace.slots)).keys() - {slot_number}
    return isinstance(error, WrongAnswer) and bool(board.wrong_lately(slot_number) or others)


def _idle(board: Board, slot_number: int, engine: Engine) -> None:
    board.uses(slot_number, device_bytes=device_bytes(engine))
    board.idle(slot_number)


def _remembering(database: Database) -> Callable[[str], Scores | None]:
    def remember(key: str) -> Scores | None:
        try:
            return remembered(database, [key]).get(key)
        except LedgerUnavailable:
            return None  # the model can still answer

    return remember


def _forgetting(_key: str) -> Scores | None:
    return None


def _watch_term(board: Board, asked: list[int]) -> None:
    """Note a SIGTERM instead of dying of it: a group kill reaches the children too, in the middle of a pair.

    Called as each chunk begins: billiard sets its own handler after worker_process_init, and a signal that met no
    chunk is to be forgotten.
    """

    def handler(number: int, _frame: FrameType | None) -> None:
        if board.leave_now:
            os._exit(0)
        asked.append(number)

    asked.clear()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, handler)


def _refuse(board: Board, error: AuditError, why: str) -> NoReturn:
    """Tell the main process to end the worker, and wait for it: the pool would replace a child that left at once."""
    board.refuse(error.exit_status, str(error))
    give_up_at = time.monotonic() + REFUSAL_WAIT_S
    while not board.draining and time.monotonic() < give_up_at:
        time.sleep(0.05)
    time.sleep(1.0)  # Celery's loop looks once a second
    _leave(f"{why}: {error}", level=CRITICAL)


def _leave(why: str, *, status: int = EX_LOAD_FAILED, level: int = ERROR) -> NoReturn:
    log.log(level, "worker process leaves", reason=why, pid=os.getpid())
    flush()
    with suppress(OSError):  # a full disk: whoever stayed for that would serve tasks without a model
        sys.stderr.flush()
    os._exit(status)
