"""Messages in Redis that the ledger knows nothing of: what a restored copy of the ledger has lost.

They do no harm (a worker that gets one asks the ledger and drops it), but they name batches to submit again.
"""

import base64
import json
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from audit.broker import broker_error
from audit.message import BadMessage, ChunkMessage, decode
from audit.pair import BatchId
from ops.queue_messages import ANSWER_S, CONNECT_S, TAKEN

if TYPE_CHECKING:
    from audit.settings import Settings
    from db.engine import Database
    from db.verify import Finding

MOST_MESSAGES = 10_000
"""Messages of one queue that are looked at; the feed keeps a window of a few chunks a slot there."""
QUEUES = "audit.v*"


def lost_messages(settings: "Settings", database: "Database") -> Iterator["Finding"]:
    """A finding for each batch, or each batch's unknown chunks. Raises BrokerRefused, BrokerUnavailable."""
    from db.verify import Finding
    from db.verify_whole import known_chunks

    rung = Counter(_messages(settings))
    known = known_chunks(database, rung.keys())
    batches: Counter[BatchId] = Counter()
    for message, times in sorted(rung.items(), key=lambda item: (item[0].batch, item[0].chunk)):
        there = known.get(message.batch)
        if there is None:
            batches[message.batch] += times
        elif message.chunk not in there:
            yield Finding(
                kind="message_without_chunk", detail="", batch=message.batch, chunk=message.chunk, count=times
            )
    for number, times in batches.items():
        yield Finding(kind="message_without_batch", detail="", batch=number, count=times)


def _messages(settings: "Settings") -> Iterator[ChunkMessage]:
    import kombu.exceptions
    import redis
    from kombu import Connection

    options = {"socket_connect_timeout": CONNECT_S, "socket_timeout": ANSWER_S}
    try:
        with Connection(settings.broker_url, transport_options=options) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=ANSWER_S)
            client = connection.default_channel.client
            for queue in client.scan_iter(match=QUEUES, count=500, _type="list"):
                yield from _parsed(client.lrange(queue, 0, MOST_MESSAGES - 1))
            for number, (_, raw) in enumerate(client.hscan_iter(TAKEN, count=500)):
                if number >= MOST_MESSAGES:
                    break
                yield from _parsed([raw], taken=True)
    except (redis.RedisError, kombu.exceptions.KombuError, OSError) as error:
        raise broker_error(error) from error


def _parsed(raws: list[bytes], *, taken: bool = False) -> Iterator[ChunkMessage]:
    """Our messages among these; what is none of ours is not our business here."""
    for raw in raws:
        try:
            message = json.loads(raw)
            body = (message[0] if taken else message)["body"]
            _, arguments, _ = json.loads(base64.b64decode(body))
            yield decode(arguments)
        except (ValueError, TypeError, KeyError, IndexError, BadMessage):
            continue
