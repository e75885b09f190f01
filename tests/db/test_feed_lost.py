"""Messages that are sent again: what is missing in Redis, and never too many at a time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from kombu.transport.redis import Channel
from sqlalchemy import Connection, func, insert, select

from audit.message import Lane, Rank
from audit.pair import BatchId
from audit.redis_lists import MOST_LOOKED_AT, Lying, lists_of, look
from db import tables
from db.engine import Database
from db.feed import Doorbell, Window, feed
from db.lost import MOST_RESENT
from producer.enqueue import Bell
from tests.support.claims import batch_of
from tests.support.ledger_rows import add_batch
from tests.support.redis_server import RedisServer
from tests.support.sql_sessions import another_session

MANY = 5_000
FEEDERS = 8
WINDOW = Window(chunks=4, slots=1)
EMPTY = dict.fromkeys(Lane, Lying(messages=0, chunks=frozenset()))


@pytest.fixture
def herd(database: Database) -> BatchId:
    """Thousands of chunks that were all sent long ago."""
    batch = add_batch(database)
    told = {"batch": batch, "pairs": 1, "state": "sent", "sends": 1, "sent_at": 1.0}
    rows = [{"number": n, "first_row": n, "last_row": n, **told} for n in range(MANY)]

    def fill(connection: Connection) -> None:
        connection.execute(insert(tables.chunks), rows)

    database.transact(fill)
    return batch


@pytest.fixture
def feeders(ledger_url: str) -> Iterator[list[Database]]:
    """As many workers' connections."""
    with ExitStack() as stack:
        yield [stack.enter_context(another_session(ledger_url)) for _ in range(FEEDERS)]


def resend(database: Database, there: Lying) -> list[Doorbell]:
    return feed(database, model="demo", window=WINDOW, resend_s=5, lying={Lane.BULK: there})


def test_many_feeders_at_once_send_few_again_and_none_twice(
    database: Database, herd: BatchId, feeders: list[Database]
) -> None:
    """A thundering herd: after an outage all messages are due, and all workers have just seen an empty Redis.

    Safeguard: MOST_RESENT a feed, chosen under a lock and marked in the same transaction.
    """
    with ThreadPoolExecutor(FEEDERS) as pool:
        rounds = list(pool.map(lambda one: resend(one, EMPTY[Lane.BULK]), feeders))
    sent = [bell.chunk for bells in rounds for bell in bells]
    assert max(map(len, rounds)) == MOST_RESENT
    assert len(sent) == len(set(sent)) <= FEEDERS * MOST_RESENT
    with database.reading() as connection:
        assert connection.scalar(select(func.count()).where(tables.chunks.c.sends == 2)) == len(sent)


def test_what_is_sent_again_finds_room_in_redis(database: Database, herd: BatchId) -> None:
    """Workers that are slower than the feed must not find Redis fuller with every second."""
    others = frozenset((herd + 1, number) for number in range(60))
    assert len(resend(database, Lying(messages=60, chunks=others))) == 4 + MOST_RESENT - 60
    assert resend(database, Lying(messages=4 + MOST_RESENT, chunks=others)) == []
    assert resend(database, Lying(messages=MOST_LOOKED_AT + 1, chunks=None)) == []


def test_what_lies_in_redis_is_passed_over(database: Database, herd: BatchId) -> None:
    """The oldest are late, the next ones are lost."""
    late = frozenset((herd, number) for number in range(40))
    assert [bell.chunk for bell in resend(database, Lying(messages=40, chunks=late))] == list(range(40, 68))


def test_a_chunk_keeps_its_rank_when_it_is_sent_again(database: Database) -> None:
    """What went ahead goes ahead again; what older code sent, without a rank, goes in turn."""
    told = {"pairs": 1, "state": "sent", "sends": 1, "sent_at": 1.0}
    batch = add_batch(database)
    rows = [
        {"batch": batch, "number": n, "first_row": n, "last_row": n, "rank": rank, **told}
        for n, rank in enumerate([Rank.SHARE, Rank.INTERACTIVE, None])
    ]
    database.transact(lambda connection: connection.execute(insert(tables.chunks), rows))
    assert [bell.rank for bell in resend(database, EMPTY[Lane.BULK])] == [Rank.SHARE, Rank.INTERACTIVE, Rank.BULK]


def test_a_lost_bulk_message_that_starves_is_sent_once(database: Database) -> None:
    """Both reasons to send it a second time may hold at once: one message is enough, and it goes ahead of everything.

    Safeguard: what bulk's share sends is left out of what is lost.
    """
    bulk, quick = add_batch(database), add_batch(database, lane="interactive")
    told = {"number": 0, "first_row": 0, "last_row": 7}
    lost = {"batch": bulk, "pairs": 1, "state": "sent", "sends": 1, "sent_at": 1.0, "rank": Rank.BULK, **told}
    waiting = {"batch": quick, "pairs": 8, "state": "pending", **told}

    def fill(connection: Connection) -> None:
        connection.execute(insert(tables.chunks).values(lost))
        connection.execute(insert(tables.chunks).values(waiting))

    database.transact(fill)
    sent = [(bell.batch, bell.rank) for bell in resend(database, EMPTY[Lane.BULK])]
    assert sent == [(quick, Rank.INTERACTIVE), (bulk, Rank.SHARE)]
    with database.reading() as connection:
        assert connection.scalar(select(tables.chunks.c.sends).where(tables.chunks.c.batch == bulk)) == 2


def test_lists_are_named_as_kombu_names_them() -> None:
    """A list that nobody consumes would swallow messages; one that nobody counts would hide them."""
    channel = Channel.__new__(Channel)
    assert lists_of("queue") == tuple(channel._q_for_pri("queue", step) for step in Channel.priority_steps)


def test_what_waits_in_redis_is_read_whatever_its_rank(
    database: Database, redis_server: RedisServer, redis_url: str
) -> None:
    """Messages as the producer sends them; rubbish is counted, and is no chunk's."""
    batch = batch_of(database, 8)
    Bell(redis_url).ring(feed(database, model="demo", window=WINDOW))
    with redis_server.client() as client:
        queue = "audit.v1.bulk.demo-2a9751"
        for rubbish in (b"123", b"not json", b'{"body": "!"}', b'{"body": "e30="}', b"[]"):
            client.rpush(queue, rubbish)
        assert look(client, queue) == Lying(messages=7, chunks=frozenset({(batch, 0), (batch, 1)}))
        client.lpush(queue, *[b"x"] * MOST_LOOKED_AT)
        assert look(client, queue) == Lying(messages=MOST_LOOKED_AT + 7, chunks=None)
