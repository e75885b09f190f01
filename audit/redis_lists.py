"""What lies in Redis: a queue is one list a rank, and each message there is Celery's envelope around ours."""

import json
from base64 import b64decode
from dataclasses import dataclass
from typing import Any

from audit.message import BadMessage, Rank, decode

MOST_LOOKED_AT = 5_000
"""Messages of a queue that are read to find what is missing among them; the feed itself keeps a few a slot there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lying:
    """What waits in a queue: how many messages, and for which chunks, by batch and number.

    `chunks` is None when there are too many to look at: then nothing counts as lost until workers have taken some.
    """

    messages: int
    chunks: frozenset[tuple[int, int]] | None


def lists_of(queue: str) -> tuple[str, ...]:
    """The lists that a queue consists of, one a rank, as kombu's Redis transport names them."""
    return tuple(f"{queue}\x06\x16{rank.value}" if rank else queue for rank in Rank)


def look(client: Any, queue: str) -> Lying:
    """Read what waits in the queue, with a client of redis-py's; what a worker has taken does not wait any more."""
    lists = lists_of(queue)
    messages = sum(int(client.llen(name)) for name in lists)
    if messages > MOST_LOOKED_AT:
        return Lying(messages=messages, chunks=None)
    found = (_chunk_of(raw) for name in lists for raw in client.lrange(name, 0, MOST_LOOKED_AT))
    return Lying(messages=messages, chunks=frozenset(chunk for chunk in found if chunk))


def _chunk_of(raw: bytes) -> tuple[int, int] | None:
    """The batch and chunk that a message rings for; None for what is no message of ours."""
    try:
        _, keywords, _ = json.loads(b64decode(json.loads(raw)["body"]))
        message = decode(keywords)
    except (BadMessage, ValueError, TypeError, KeyError, AttributeError):
        return None
    return message.batch, message.chunk
