"""Ringing: messages that tell workers of chunks to look at. In the producer, Celery is imported in this room alone."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from audit.broker import broker_error, weaknesses
from audit.errors import BrokerUnavailable, LedgerUnavailable, UsageError
from audit.message import TASK_NAME, ChunkMessage, Lane, encode, queue_name, shown
from audit.redis_lists import Lying, look
from db.engine import Database
from db.feed import Doorbell, Window, feed, overdue_lanes, unsend

SCHEMES = ("redis", "rediss")
CONNECT_S = 1.0
ANSWER_S = 3.0
"""Redis answers a push within a millisecond; whoever submits is not kept waiting for one that does not."""


class Bell:
    """A way to Redis for one process; connects at the first ring. Raises UsageError for a URL that is none."""

    def __init__(self, broker_url: str) -> None:
        from celery import Celery
        from kombu.utils.url import url_to_parts

        try:
            known = url_to_parts(broker_url).scheme.partition("+")[0] in SCHEMES
        except ValueError:
            known = False
        if not known:  # the URL itself may hold a password: it is not shown
            raise UsageError("bad_setting", "REDIS_URL must be redis://:PASSWORD@HOST:PORT/0 or redis+socket://PATH")
        self._app = Celery("caption-audit-producer", set_as_current=False)
        self._app.conf.update(
            broker_url=broker_url,
            result_backend=None,
            task_ignore_result=True,
            task_serializer="json",
            broker_transport_options={"socket_connect_timeout": CONNECT_S, "socket_timeout": ANSWER_S},
        )

    def weaknesses(self) -> list[str]:
        """What an operator should change about this Redis; raises BrokerRefused (wrong password), BrokerUnavailable."""
        with self._connected() as connection:
            return weaknesses(connection.default_channel.client)

    def ring(self, doorbells: Sequence[Doorbell]) -> None:
        """Send a message for each chunk; raises BrokerUnavailable within seconds when they could not all be sent."""
        if not doorbells:
            return
        with self._connected() as connection, self._app.amqp.Producer(connection, auto_declare=False) as producer:
            for doorbell in doorbells:
                self._send(doorbell, producer)

    def lying(self, lanes: frozenset[Lane], *, model: str) -> Mapping[Lane, Lying]:
        """What waits in these lanes' queues; raises BrokerUnavailable within seconds."""
        with self._connected() as connection:
            client = connection.default_channel.client
            return {lane: look(client, queue_name(lane, model)) for lane in lanes}

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        import kombu.exceptions
        import redis

        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=ANSWER_S)
                yield connection
        except (redis.RedisError, kombu.exceptions.KombuError, OSError) as error:
            raise broker_error(error) from error

    def _send(self, doorbell: Doorbell, producer: Any) -> None:
        message = ChunkMessage(batch=doorbell.batch, chunk=doorbell.chunk)
        self._app.send_task(
            TASK_NAME,
            kwargs=encode(message),
            kwargsrepr=shown(message, pairs=doorbell.pairs),
            queue=queue_name(doorbell.lane, doorbell.model),
            priority=doorbell.rank,
            producer=producer,
            retry=False,
            ignore_result=True,
        )


def top_up(database: Database, bell: Bell, *, model: str, window: Window, resend_s: float) -> int:
    """Feed Redis once, as workers do every second; returns the messages sent.

    Raises LedgerUnavailable, BrokerUnavailable: what could not be sent waits in the ledger for a worker's feed.
    """
    overdue = overdue_lanes(database, model=model, resend_s=resend_s)
    lying = bell.lying(overdue, model=model) if overdue else {}
    doorbells = feed(database, model=model, window=window, resend_s=resend_s, lying=lying)
    try:
        bell.ring(doorbells)
    except BrokerUnavailable:
        with suppress(LedgerUnavailable):  # what stays marked as sent is sent again some seconds later
            unsend(database, doorbells)
        raise
    return len(doorbells)
