"""What can happen to messages: copied, reordered, dropped, wiped, and rubbish among them."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import redis

from audit.message import Lane, queue_name
from audit.redis_lists import lists_of
from tests.chaos.stage import Stage

RUBBISH = (b"123", b"not json", b"\x80\x04\x95pickle", None)
"""What is pushed into a queue; None is a well-formed message for a task that nobody has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """The lists of both lanes in Redis. Each method says what it did, and nothing when it found nothing to do."""

    stage: Stage
    rng: Random

    def flush(self) -> str:
        """FLUSHALL: also what Celery itself keeps there."""
        with self._client() as client:
            client.flushall()
        return "everything"

    def triple(self) -> str:
        """Each message that waits, twice more."""
        with self._client() as client:
            found = {queue: messages for queue in self._names() if (messages := _messages(client, queue))}
            for queue, messages in found.items():
                client.lpush(queue, *messages, *messages)
        return ", ".join(f"{len(messages)} messages" for messages in found.values())

    def shuffle(self) -> str:
        """The same messages in another order; one that comes in between is lost."""
        with self._client() as client:
            found = {queue: messages for queue in self._names() if len(messages := _messages(client, queue)) > 1}
            for queue, messages in found.items():
                self.rng.shuffle(messages)
                client.delete(queue)
                client.lpush(queue, *messages)
        return ", ".join(f"{len(messages)} messages" for messages in found.values())

    def drop(self) -> str:
        """Some of the messages, or all of them."""
        whole, told = self.rng.random() < 0.5, []
        with self._client() as client:
            for queue in self._names():
                length = len(_messages(client, queue))
                if length:
                    lost = length if whole else self.rng.randint(1, length)
                    client.lpop(queue, lost)
                    told.append(f"{lost} of {length} messages")
        return ", ".join(told)

    def spoil(self) -> str:
        """One piece of rubbish where the next message is taken."""
        rubbish, queue = self.rng.choice(RUBBISH), self.rng.choice(self._names())
        with self._client() as client:
            if rubbish is None:
                found = _messages(client, queue)
                if not found:
                    return ""
                good = json.loads(found[0])
                rubbish = json.dumps(good | {"headers": good["headers"] | {"task": "somebody.elses"}}).encode()
            client.rpush(queue, rubbish)
        return repr(rubbish[:12])

    def _names(self) -> list[str]:
        queues = (queue_name(lane, self.stage.settings.model_name) for lane in Lane)
        return [name for queue in queues for name in lists_of(queue)]

    @contextmanager
    def _client(self) -> Iterator["redis.Redis"]:
        with redis.Redis(unix_socket_path=str(self.stage.redis.socket), socket_timeout=10) as client:
            yield client


MESSAGE_FAULTS: Mapping[str, Callable[[Queues], str]] = {
    "redis_flushed": Queues.flush,
    "tripled": Queues.triple,
    "shuffled": Queues.shuffle,
    "dropped": Queues.drop,
    "rubbish": Queues.spoil,
}


def _messages(client: "redis.Redis", queue: str) -> list[bytes]:
    found: Any = client.lrange(queue, 0, -1)  # typed as an awaitable, too
    return list(found)
