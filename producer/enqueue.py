"""Ringing: messages that tell workers of chunks to look at. In the producer, Celery is imported in this room alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from audit.broker import broker_error, weaknesses
from audit.errors import UsageError
from audit.message import TASK_NAME, ChunkMessage, encode, queue_name, shown
from db.feed import Doorbell

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
            producer=producer,
            retry=False,
            ignore_result=True,
        )
