"""Flower, with settings of ours alone: signed in, read-only, bounded, and on this host unless told otherwise.

Flower's own command is not used: it takes its options from arguments, which every user of the machine can read, from
FLOWER_ variables and from a flowerconfig.py in the current folder.
"""

import asyncio
import logging
import os
import signal
import socket
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from audit.errors import BrokerRefused, BrokerUnavailable, UsageError
from audit.settings import Settings
from ops.flower_password import password, password_file

if TYPE_CHECKING:
    from ops.flower_door import GuardedFlower

COLUMNS = "name,kwargs,state,received,runtime,worker,uuid"
MOST_WORKERS = 200
MOST_BODY_BYTES = 100_000
FORGET_EVERY_S = 300.0
OFFLINE_KEPT_S = 3_600.0
"""Workers come and go under new names; one that is offline for so long leaves Flower's memory, with its counters."""


def serve(settings: Settings) -> int:
    """Serve until TERM or Ctrl-C; returns the exit status. Raises UsageError (port, password), BrokerRefused."""
    from telemetry.logs import configure_logs, logger

    configure_logs(settings, part="flower")
    log = logger(__name__)
    # Refused inspections and slow workers are everyday life, not warnings.
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
    credentials = f"{settings.flower_user}:{password(settings)}"
    sockets = _listen(settings)
    _look_at_redis(settings, log)

    from tornado.httpserver import HTTPServer
    from tornado.ioloop import IOLoop, PeriodicCallback

    asyncio.set_event_loop(asyncio.new_event_loop())
    loop = IOLoop.current()
    flower = make_flower(settings, credentials)
    server = HTTPServer(flower, max_body_size=MOST_BODY_BYTES, idle_connection_timeout=120.0)
    server.add_sockets(sockets)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.add_callback_from_signal(loop.stop))
    PeriodicCallback(lambda: forget_offline(flower, OFFLINE_KEPT_S), FORGET_EVERY_S * 1000).start()
    if not _is_loopback(settings.flower_address):
        log.warning("flower listens beyond this host, without TLS", cure="put a proxy that speaks TLS before it")
    log.info("flower ready", address=settings.flower_address, port=settings.flower_port)
    print(f"Flower is at {address(settings)} ({sign_in(settings)})", flush=True)
    flower.start()
    flower.stop()
    # Its threads may be in the middle of asking workers; nothing of it needs to be finished.
    logging.shutdown()
    os._exit(0)


def address(settings: Settings) -> str:
    """The URL for a browser on this host."""
    host = settings.flower_address
    host = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104 - compared
    prefix = settings.flower_url_prefix.strip("/")
    return f"http://{host}:{settings.flower_port}/{prefix + '/' if prefix else ''}"


def sign_in(settings: Settings) -> str:
    """Who signs in, and where the password stands; never the password."""
    file = password_file(settings)
    return f"user {settings.flower_user}, password in {file or 'AUDIT_FLOWER_PASSWORD'}"


def forget_offline(flower: "GuardedFlower", kept_s: float) -> None:
    """Drop what Flower remembers of workers that went offline so long ago, which by itself it never does."""
    state, now = flower.events.state, time.time()
    for name in {*state.counter, *state.workers, *flower.inspector.workers}:
        worker = state.workers.get(name)
        if worker is not None and (worker.alive or now - max(worker.heartbeats, default=0.0) < kept_s):
            continue
        state.counter.pop(name, None)
        state.workers.pop(name, None)
        flower.inspector.workers.pop(name, None)
        state.metrics.remove_workers({name})


def make_flower(settings: Settings, credentials: str) -> "GuardedFlower":
    """Flower for this process; `credentials` are user:password. It listens nowhere yet."""
    from celery import Celery
    from flower.options import options
    from flower.urls import settings as pages

    from ops.flower_door import GuardedFlower

    app = Celery("caption-audit-flower")
    app.conf.update(
        broker_url=settings.broker_url,
        result_backend=None,
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    options.basic_auth = [credentials]
    options.read_only = True
    options.max_tasks, options.max_workers = settings.flower_max_tasks, MOST_WORKERS
    options.persistent, options.db = False, ""
    # Our workers send events without being asked every five seconds.
    options.enable_events = False
    options.natural_time, options.tasks_columns = True, COLUMNS
    options.purge_offline_workers = int(OFFLINE_KEPT_S)
    options.url_prefix = settings.flower_url_prefix.strip("/") or None
    tornado = dict(pages)
    if options.url_prefix:
        tornado["static_url_prefix"] = f"/{options.url_prefix}{tornado['static_url_prefix']}"
    return GuardedFlower(credentials=credentials, options=options, capp=app, **tornado)


def _listen(settings: Settings) -> list[socket.socket]:
    from tornado.netutil import bind_sockets

    where = f"{settings.flower_address}:{settings.flower_port}"
    try:
        return list(bind_sockets(settings.flower_port, address=settings.flower_address))
    except OSError as error:
        cure = "set AUDIT_FLOWER_PORT to a free one, or AUDIT_FLOWER_ADDRESS to an address of this host"
        raise UsageError(
            "port_taken", f"Flower cannot listen on {where} ({error.strerror or error}): {cure}"
        ) from error


def _look_at_redis(settings: Settings, log: Any) -> None:
    """Refuse a wrong password now; Flower itself would try it again for ever."""
    from ops.queue_messages import messages

    try:
        messages(settings.broker_url, ())
    except BrokerRefused:
        raise
    except BrokerUnavailable as error:
        log.warning("flower waits for Redis", reason=error.detail)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
