"""The main process's own way to Redis, beside Celery's consumer: ringing doorbells, and looking at what is there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import KombuError

from audit.broker import broker_error, weaknesses
from audit.errors import BrokerRefused, BrokerUnavailable
from audit.message import TASK_NAME, ChunkMessage, Lane, encode, queue_name, shown
from audit.redis_lists import Lying, look
from db.feed import Doorbell
from telemetry.logs import logger

log = logger(__name__)


class RedisSide:
    """Opens a connection for each thing to do and closes it: none outlives a round of housekeeping."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def ring(self, doorbells: list[Doorbell]) -> None:
        """Send them all; raises BrokerUnavailable when they could not all be sent."""
        with self._connected() as connection, self._app.amqp.Producer(connection, auto_declare=False) as producer:
            for bell in doorbells:
                message = ChunkMessage(batch=bell.batch, chunk=bell.chunk)
                self._app.send_task(
                    TASK_NAME,
                    kwargs=encode(message),
                    kwargsrepr=shown(message, pairs=bell.pairs),
                    queue=queue_name(bell.lane, bell.model),
                    priority=bell.rank,
                    producer=producer,
                    retry=False,
                    ignore_result=True,
                )

    def lying(self, lanes: frozenset[Lane], *, model: str) -> Mapping[Lane, Lying]:
        """What waits in these lanes' lists; what a worker has taken does not. Raises BrokerUnavailable."""
        with self._connected() as connection:
            client = connection.default_channel.client
            return {lane: look(client, queue_name(lane, model)) for lane in lanes}

    def answers(self) -> bool:
        """Whether Redis has answered, so that it is known: Celery would try a wrong password for ever.

        Raises BrokerRefused. That it does not answer yet is Celery's to wait for.
        """
        try:
            with self._connected() as connection:
                for weakness in weaknesses(connection.default_channel.client):
                    log.warning("redis should be changed", reason=weakness)
        except BrokerRefused:
            raise
        except BrokerUnavailable:
            return False
        return True

    def knock(self) -> None:
        """Ask whether it is there. Raises BrokerUnavailable."""
        with self._connected() as connection:
            connection.default_channel.client.ping()

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Raises BrokerUnavailable for whatever keeps Redis from taking messages."""
        try:
            with self._app.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=3)
                yield connection
        except (redis.RedisError, KombuError, OSError) as error:
            raise broker_error(error) from error
