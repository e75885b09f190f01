"""A worker's life: checked before it starts, ready when a model is proved, drained when it is told to stop."""

import errno
import gc
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from billiard import current_process
from billiard.pool import EX_RECYCLE
from celery import Celery
from celery.bootsteps import RUN
from celery.worker import state

from audit.errors import AuditError, BrokerRefused
from audit.holder import this_process
from audit.message import BadMessage, ChunkMessage, decode
from audit.settings import Settings
from db.engine import open_database
from db.schema import ensure_schema, patiently
from telemetry.exporting import flush, sum_up_complaints
from telemetry.logs import configure_logs, last_words, logger
from worker.board import Board
from worker.child import Workplace, open_office, turn_of
from worker.children import EX_UNAVAILABLE, Children
from worker.devices import check_devices
from worker.gauges import Gauges
from worker.giving_way import GivingWay
from worker.housekeeping import Housekeeper, Rounds
from worker.metrics_page import count_together, metrics_page
from worker.model_pool import find_model
from worker.office import Office
from worker.pages import Routes
from worker.ready_file import ReadyFile
from worker.recycling import leave_in_turn
from worker.redis_side import RedisSide
from worker.replacing import leave_when_told
from worker.reporting import Reporting
from worker.serving import Serving
from worker.slots import plan_slots
from worker.stopping import Stopping
from worker.tasks import judge_chunk
from worker.telling import Telling, told_apart

log = logger(__name__)
EX_INTERRUPTED = 130
SETTLE_S = 10.0
"""Longest that the end waits for what was killed to be given back; the ledger may be away."""
EXPECTED = frozenset({0, EX_RECYCLE})
"""Exit statuses of a pool process that leaves as it should."""


class Lifecycle:
    """Holds what the main process prepared, and in a pool process its office."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._settings = settings
        self._redis = RedisSide(app)
        self._ready = ReadyFile(settings.home, notify=os.environ.get("NOTIFY_SOCKET"))
        self._reporting: Reporting | None = None
        self._gauges: Gauges | None = None
        self._workplace: Workplace | None = None
        self._office: Office | None = None
        self._housekeeper: Housekeeper | None = None
        self._telling: Telling | None = None
        self._stopping: Stopping | None = None
        self._serving: Serving | None = None
        self._hostname = "worker"
        self._consumer: Any = None
        self._redis_known = False
        self._children: Children | None = None

    def on_setup_logging(self, **_: object) -> None:
        """Keep Celery from configuring logs of its own."""
        configure_logs(self._settings, part="worker-main")

    def on_worker_init(self, sender: Any, **_: object) -> None:
        """Main process, before any child: refuse here what cannot work, in one line and with the right status."""
        configure_logs(self._settings, part="worker-main")
        sum_up_complaints()
        # Celery's signal handlers write to it; when nobody reads that pipe any more the error looks like a lost
        # connection, and the worker does not stop.
        sys.__stdout__ = None  # type: ignore[misc]  # final, but for us
        try:
            self._prepare(sender)
        except AuditError as error:
            last_words(str(error), status=error.exit_status)
            raise SystemExit(error.exit_status) from None
        except Exception:  # Celery would log it and start a worker that can do nothing
            log.critical("worker not started", exc_info=True)
            raise SystemExit(1) from None

    def _prepare(self, worker: Any) -> None:
        settings = self._settings
        if "prefork" not in str(worker.pool_cls):  # a name here, or a class when another program starts us
            raise AuditError("bad_pool", "judging needs the prefork pool: leave -P / --pool away")
        slots = plan_slots(settings, os.environ)
        worker.concurrency = len(slots)
        if settings.engine != "stub":
            check_devices(slots, os.environ)
        model = find_model(settings)
        database = open_database(settings.ledger_url)
        limit_s = settings.start_wait_s
        try:
            patiently(
                lambda: ensure_schema(database),
                wait_s=limit_s,
                waiting=lambda why: log.warning("worker waits for its ledger", reason=why, limit_s=limit_s),
            )
        finally:
            database.close()
        self._hostname = told_apart(worker.hostname, os.getpid())
        if settings.http_port:
            count_together(len(slots))
        board = Board()
        self._workplace = Workplace(settings=settings, model=model, slots=slots, board=board, keeper=this_process())
        self._children = Children(self._workplace, settings)
        self._redis_known = self._redis.answers()
        # modelscope may want to install what a model folder asks for; it must not, and from nowhere.
        os.environ["PIP_NO_INDEX"] = "1"
        # Before Redis answers: a model that does not load must end the worker all the same.
        self._keep_house(self._children)
        if settings.http_port:
            self._serving = Serving(self._routes(), address=settings.http_address, port=settings.http_port)
            self._serving.start()

    def _routes(self) -> Routes:
        """The pages of this worker: made of what is in memory, while forks wait."""
        gauges = [self._gauges] if self._gauges else []
        return {"/metrics": lambda: metrics_page(*gauges), **(self._reporting.routes() if self._reporting else {})}

    def on_process_init(self, **_: object) -> None:
        """Pool process: get ready, or leave."""
        if self._workplace is None:
            os._exit(EX_UNAVAILABLE)
        process = current_process()
        self._office = open_office(self._workplace, process.index, worker=self._hostname)
        leave_in_turn(process, turn_of(self._workplace, self._office, process.index))

    def on_process_shutdown(self, pid: int, exitcode: int, **_: object) -> None:
        """Pool process, when it leaves through Celery's own door; one that is killed or sick does not come here."""
        if self._workplace is not None and exitcode in EXPECTED:
            if self._office is not None:
                self._office.canaries.close()
            self._workplace.board.left(current_process().index, pid)
            flush()
            leave_when_told(exitcode)

    def on_worker_ready(self, sender: Any, **_: object) -> None:
        """Main process: Redis answers and children are being made."""
        self._consumer = sender
        self._watch()
        gc.freeze()  # Celery collects garbage before each fork, while nobody is given work: less to look at
        self._report()
        workplace = self._require()
        log.info("worker ready", slots=len(workplace.slots), model=workplace.model.name, pid=os.getpid())

    def _watch(self) -> None:
        if self._children:
            self._children.watch(self._consumer)

    def _keep_house(self, children: Children) -> None:
        workplace = self._require()
        self._telling = Telling(
            workplace.board,
            workplace.slots,
            model=workplace.model.name,
            worker=self._hostname,
            every_s=self._settings.tell_every_s,
        )
        self._gauges = Gauges(self._telling, workplace, reporting=lambda: self._reporting)
        rounds = Rounds(
            settings=self._settings,
            model=workplace.model.name,
            slots=len(workplace.slots),
            ring=self._redis.ring,
            knock=self._redis.knock,
            lying=partial(self._redis.lying, model=workplace.model.name),
            nobody_works=children.nobody_works,
            reconnect=self._reconnect,
            stuck=children.stuck,
            rules=children.rules,
            recall=children.recall,
            check=self._check_board,
            tell=self._gauges if self._settings.http_port else self._telling,
            give_way=GivingWay(
                workplace.board, len(workplace.slots), model=workplace.model.name, settings=self._settings
            ),
        )
        self._housekeeper = Housekeeper(rounds)
        self._reporting = Reporting(
            self._ready,
            workplace.board,
            workplace.slots,
            model=workplace.model.name,
            settings=self._settings,
            house=self._housekeeper,
            telling=self._telling,
            pages=lambda: self._serving.url if self._serving else None,
        )
        self._report()  # before the first round: pages are asked as soon as they are there
        self._housekeeper.start()
        self._stopping = Stopping(
            workplace.board,
            slots=len(workplace.slots),
            grace_s=self._settings.stop_grace_s,
            ledger_url=self._settings.ledger_url,
            # SIGQUIT, and a second Ctrl-C: Celery waits for its pool before it says so by a signal of its own.
            at_once=lambda: workplace.board.leave_now or bool(state.should_terminate),
            leave=self._leave,
        )
        self._stopping.start()

    def on_shutting_down(self, how: str, **_: object) -> None:
        """Main process, in a signal handler: children see the board between two micro-batches."""
        if self._workplace:
            self._workplace.board.drain(now=how == "Cold")
        if self._housekeeper:
            self._housekeeper.stop()

    def on_shutdown(self, **_: object) -> None:
        """Main process, at the very end; a child's refusal decides the exit status, however Celery came to stop."""
        self.on_shutting_down("Warm")  # an end by Celery's own error is told by no signal before this one
        if self._stopping:
            self._stopping.settled(patience_s=SETTLE_S)
        if self._housekeeper and self._telling:
            self._housekeeper.last_words(self._telling.leave)
        self._ready.remove()
        if self._workplace and self._refusal() is not None:
            self._leave()

    def _leave(self) -> None:
        """Main process: end now, with a child's refusal if there is one."""
        self._ready.remove()
        status, reason = self._refusal() or (EX_INTERRUPTED if interrupted() else 0, None)
        if reason is not None:
            last_words(reason, status=status)
        os._exit(status)

    def hard_limit_fired(self, pid: int) -> None:
        """Main process: Celery is about to kill this child; what it has in hand took too long."""
        if self._children:
            self._children.limit_fired(pid)

    def judge(self, body: Mapping[str, object]) -> str:
        """The task's body, in a pool process."""
        if self._office is None:
            raise RuntimeError("this process has no model: only the prefork pool judges")
        try:
            message: ChunkMessage = decode(body)
        except BadMessage as error:
            log.warning("message dropped", reason=error.detail)
            return "dropped"
        self._require().board.took(current_process().index, batch=message.batch, chunk=message.chunk)
        return judge_chunk(message, self._office).value

    def _check_board(self) -> None:
        """In every round of housekeeping: leave when a child, or Redis, has shown that it is no use going on."""
        if self._consumer is not None and self._consumer.controller.blueprint.state != RUN:
            self.on_shutting_down("Warm")  # it waits for its children, and these are to give back what they have
        self._watch()
        if not self._redis_known:
            try:
                self._redis_known = self._redis.answers()
            except BrokerRefused as error:
                self._require().board.refuse(error.exit_status, str(error))
        if (refusal := self._refusal()) is not None:
            self._require().board.drain()
            state.should_stop = refusal[0]  # Celery's main loop looks at it; messages stay queued
        self._report()

    def _report(self) -> None:
        if self._reporting:
            self._reporting.tell()

    def _refusal(self) -> tuple[int, str] | None:
        return self._children.refusal() if self._children else None

    def _reconnect(self) -> None:
        if self._consumer is not None and self._consumer.hub is not None:
            queues = self._consumer.app.amqp.queues
            queues.select([*queues])  # all again, also those that somebody's remote control has cancelled
            # In Celery's own loop, where it is what a lost connection is: the consumer starts anew, children live on.
            self._consumer.hub.call_soon(_lose_connection)

    def _require(self) -> Workplace:
        if self._workplace is None:
            raise RuntimeError("the worker was not prepared")
        return self._workplace


def _lose_connection() -> None:
    raise ConnectionResetError(errno.ECONNRESET, "the consumer did not listen any more")


def interrupted() -> bool:
    """Whether Ctrl-C has ended this worker: Celery keeps the 1 of that signal here, and nothing else has a 1."""
    return state.should_stop is not True and state.should_stop == 1
