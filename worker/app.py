"""The Celery application: its settings, and what happens when a worker and its processes start and stop.

`celery -A worker.app worker` and `caption-audit worker` both come here. The settings follow what was measured with
these versions of Celery; see docs/decisions/.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from celery.platforms import SecurityWarning
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.request import Request
from kombu import Queue

from audit.errors import AuditError
from audit.message import TASK_NAME, Lane, queue_name
from audit.settings import Settings, read_settings
from telemetry.logs import logger
from worker.lifecycle import EX_INTERRUPTED, Lifecycle, interrupted

log = logger(__name__)


def create_app(settings: Settings) -> Celery:
    """A Celery app for these settings; connects to nothing yet."""
    app = Celery("caption-audit", set_as_current=True)
    app.conf.update(configuration(settings))
    lifecycle = Lifecycle(app, settings)

    class LimitedRequest(Request):  # type: ignore[misc]  # celery ships no types
        """Has no time limits but ours, and tells housekeeping whom a hard limit is about to kill."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            # From the message, that is from anybody: a limit that is no number would end the worker, and each after it.
            self.time_limits = (None, None)

        def on_timeout(self, soft: bool, timeout: float) -> None:
            if not soft and self.worker_pid:
                lifecycle.hard_limit_fired(self.worker_pid)
            super().on_timeout(soft, timeout)

    @app.task(name=TASK_NAME, Request=LimitedRequest, ignore_result=True)  # type: ignore[untyped-decorator]  # celery
    def judge(**body: object) -> str:
        return lifecycle.judge(body)

    connect = {"weak": False}
    signals.setup_logging.connect(lifecycle.on_setup_logging, **connect)
    signals.worker_init.connect(lifecycle.on_worker_init, **connect)
    signals.worker_process_init.connect(lifecycle.on_process_init, **connect)
    signals.worker_process_shutdown.connect(lifecycle.on_process_shutdown, **connect)
    signals.worker_ready.connect(lifecycle.on_worker_ready, **connect)
    signals.worker_shutting_down.connect(lifecycle.on_shutting_down, **connect)
    signals.worker_shutdown.connect(lifecycle.on_shutdown, **connect)
    return app


class SturdyConsumer(Consumer):  # type: ignore[misc]  # celery ships no types
    """Drops a message that it cannot handle.

    Celery's own ends the worker, which puts the message back into Redis as it leaves: the next one would meet it again.
    """

    def create_task_handler(self, **named: Any) -> Callable[[Any], None]:
        """What is called with each message."""
        handle = super().create_task_handler(**named)

        def on_message(message: Any) -> None:
            try:
                handle(message)
            except (*self.connection_errors, *self.channel_errors):
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, Celery has no other hands for it
                log.warning("message dropped", reason=f"{type(error).__name__} in Celery's hands")
                message.reject_log_error(logging.getLogger(__name__), self.connection_errors)

        return on_message


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings; the reason stands beside each that is not the default."""
    soft_s, hard_s = settings.chunk_limits_s
    model = settings.model_name
    return {
        "broker_url": settings.broker_url,
        # Verdicts live in the ledger; nothing is to be read from Redis.
        "result_backend": None,
        "task_ignore_result": True,
        # A pickle from Redis would be code from Redis.
        "accept_content": ["json"],
        "task_serializer": "json",
        # Interactive first: both queues are consumed, in this order whenever both hold messages.
        "task_queues": [Queue(queue_name(lane, model)) for lane in (Lane.INTERACTIVE, Lane.BULK)],
        "task_default_queue": queue_name(Lane.BULK, model),
        # Acknowledge after the work; the ledger counts deaths, so a killer cannot loop for ever.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "task_soft_time_limit": soft_s,
        "task_time_limit": hard_s,
        "worker_pool": "prefork",
        "worker_consumer": "worker.app:SturdyConsumer",
        # The default of 4 s would kill each replacement child that loads a model for longer, for ever.
        "worker_proc_alive_timeout": settings.canary_limit_s,
        "worker_lost_wait": 2.0,
        # A child leaves by itself when its turn has come (worker/recycling.py); this is for one whose turn never comes.
        "worker_max_tasks_per_child": 2 * settings.max_tasks_per_child,
        # True would TERM every child on any blip of Redis; the ledger makes that pointless.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_send_task_events": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A Redis that is full refuses every write, acknowledgements too: wait for it, as for one that is away.
        "broker_channel_error_retry": True,
        "broker_transport_options": {
            # Above the hard limit, or Redis would hand a chunk that is being judged to a second worker.
            "visibility_timeout": int(hard_s) + 3600,
            # A connection that went silent is noticed in 5 to 20 s (docs/faults.md), not after the kernel's two hours.
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 5,
            "queue_order_strategy": "priority",
        },
    }


def run_worker(settings: Settings) -> int:
    """Run one worker in this process until it is told to stop; returns its exit status."""
    # Root is warned of because of pickled messages; ours are JSON alone, and an error is to be one line.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app = create_app(settings)
    worker = app.Worker(
        hostname=f"caption-audit-{os.getpid()}@{os.uname().nodename}",
        loglevel=settings.log_level.upper(),
        # Gossip and mingle tell workers of each other; ours meet in the ledger.
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    worker.start()
    # Told to stop while it starts, it ends children that only load, and Celery calls that an error of its own.
    told = state.should_stop
    if interrupted():
        return EX_INTERRUPTED
    return int(worker.exitcode or 0) if told is None or told is False else int(told)


def __getattr__(name: str) -> Celery:
    """Make `app` when `celery -A worker.app` asks for it, and not when this module is merely imported."""
    if name not in ("app", "celery"):
        raise AttributeError(name)
    try:
        made = create_app(read_settings())
    except AuditError as error:
        sys.stderr.write(f"caption-audit: {error}\n")
        raise SystemExit(error.exit_status) from None
    globals()["app"] = globals()["celery"] = made
    return made
