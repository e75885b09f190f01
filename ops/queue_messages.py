"""What lies in Redis: messages that wait, and messages that a worker has taken and not acknowledged yet."""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from audit.broker import broker_error
from audit.redis_lists import lists_of

CONNECT_S = 2.0
ANSWER_S = 5.0
MOST_TAKEN = 10_000
"""Taken messages that are looked at: there is one a slot, unless somebody fills Redis with rubbish."""
TAKEN = "unacked"
"""Celery's hash of taken messages: a tag, and the JSON of [message, exchange, queue]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Messages:
    """Messages of one queue: `waiting` for a worker, and `taken` by one."""

    waiting: int
    taken: int


@contextmanager
def redis_client(broker_url: str, *, connect_s: float = CONNECT_S, answer_s: float = ANSWER_S) -> Iterator[Any]:
    """A client of the Redis that Celery would use. Raises BrokerRefused for a wrong password, BrokerUnavailable."""
    import kombu.exceptions
    import redis
    from kombu import Connection

    options = {"socket_connect_timeout": connect_s, "socket_timeout": answer_s}
    try:
        with Connection(broker_url, transport_options=options) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=answer_s)
            yield connection.default_channel.client
    except (redis.RedisError, kombu.exceptions.KombuError, OSError) as error:
        raise broker_error(error) from error


def messages(broker_url: str, queues: Collection[str]) -> Mapping[str, Messages]:
    """Look at these queues. Raises BrokerRefused for a wrong password, BrokerUnavailable, within seconds."""
    ordered = sorted(queues)
    with redis_client(broker_url) as client:
        waiting = [sum(int(client.llen(name)) for name in lists_of(queue)) for queue in ordered]
        taken: Counter[str] = Counter()
        for number, (_, raw) in enumerate(client.hscan_iter(TAKEN, count=500)):
            if number >= MOST_TAKEN:
                break
            taken[_queue_of(raw)] += 1
    return {queue: Messages(waiting=n, taken=taken[queue]) for queue, n in zip(ordered, waiting, strict=True)}


def _queue_of(raw: bytes | str) -> str:
    """The queue that a taken message came from; empty for what is no message of Celery's."""
    try:
        entry = json.loads(raw)
    except ValueError:
        return ""
    return entry[2] if isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], str) else ""
