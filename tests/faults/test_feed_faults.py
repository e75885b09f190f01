"""Messages that get lost one by one, or a hundred thousand at a time, while there is very much to do."""

from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, select, update

from audit.message import Lane, queue_name
from audit.pair import BatchId
from audit.redis_lists import look
from audit.settings import Settings
from db import tables
from db.cancel import cancel_batch
from db.engine import Database
from db.lost import MOST_RESENT
from db.queries import progress
from tests.support.ledger_rows import add_batch
from tests.support.manifests import draw, small_manifest
from tests.support.recovery import recovery
from tests.support.redis_lists import waiting_in
from tests.support.redis_server import RedisServer
from tests.support.running import changed, check_promises, ledger, running, submitted
from tests.support.waiting import wait_until

MANY = 100_000


def states(database: Database, batch: BatchId) -> dict[int, str]:
    column = tables.chunks.c
    with database.reading() as connection:
        found = connection.execute(select(column.number, column.state).where(column.batch == batch))
        return {row.number: row.state for row in found}


def test_a_message_lost_in_a_long_backlog_is_sent_again(
    sqlite_settings: Settings, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Redis is never empty while a backlog lasts: whoever waits for that waits for hours.

    Safeguard: the main process reads which chunks' messages lie in Redis, and the feed sends what is missing.
    """
    settings = changed(
        sqlite_settings, devices="cpu", chunk_pairs=10, stub_pair_s=0.1, feed_every_s=0.2, resend_s=3, cache=False
    )
    queue = queue_name(Lane.BULK, settings.model_name)
    batch = submitted(settings, small_manifest(tmp_path, pairs=4000))
    with redis_server.client() as client, running(settings, tmp_path) as worker, ledger(settings) as database:
        wait_until(lambda: "running" in states(database, batch).values(), timeout_s=60, what=f"work{worker.tail()}")
        with recovery(4, "one message lost in a long backlog", within_s=60):
            lost = waiting_in(client, queue)[0]
            rings_for = next(
                number for number in sorted(states(database, batch)) if f"chunk {number}, ".encode() in lost
            )
            for name in (queue, f"{queue}\x06\x169"):
                client.lrem(name, 0, lost)
            wait_until(
                lambda: states(database, batch)[rings_for] in ("running", "done"), timeout_s=120, what="the lost chunk"
            )
        assert "pending" in states(database, batch).values()
        cancel_batch(database, batch)
        wait_until(lambda: not progress(database, batch).remaining, timeout_s=60, what="the rest to end")
    check_promises(settings, batch)


@pytest.mark.long
def test_workers_that_start_beside_a_hundred_thousand_lost_messages_do_not_flood_redis(
    settings: Settings, redis_server: RedisServer, tmp_path: Path
) -> None:
    """After an outage every message is due at once, and every worker starts at once.

    Safeguard: a feed sends so many again, into a list that has room for them; rounds are jittered.
    """
    herd = changed(settings, devices="cpu", feed_every_s=0.5, resend_s=5, lease_s=20, pair_limit_s=10, cache=False)
    draw(tmp_path / "red.png")
    queue = queue_name(Lane.BULK, herd.model_name)
    longest = 0
    with ledger(herd) as database, redis_server.client() as client:
        batch = _all_sent_long_ago(database, herd, tmp_path)
        with running(herd, tmp_path), running(herd, tmp_path), running(herd, tmp_path):

            def enough() -> bool:
                nonlocal longest
                longest = max(longest, look(client, queue).messages)
                return progress(database, batch).judged > 300

            with recovery(23, "100,000 due messages and all workers at once", within_s=120):
                wait_until(enough, timeout_s=240, what="pairs to be judged")
            cancel_batch(database, batch)
            wait_until(lambda: not progress(database, batch).remaining, timeout_s=120, what="the rest to end")
        check_promises(herd, batch)
    # Three workers may have looked at the same moment, each with a window of four chunks.
    assert 0 < longest <= 3 * (MOST_RESENT + 4) + MOST_RESENT


def _all_sent_long_ago(database: Database, settings: Settings, pictures: Path) -> BatchId:
    """A hundred thousand chunks of a pair each, all of them sent, and no message anywhere."""
    batch = add_batch(database, model=settings.model_name, image_root=str(pictures))

    def fill(connection: Connection) -> None:
        for first in range(0, MANY, 10_000):
            rows = range(first, first + 10_000)
            pairs = [{"batch": batch, "row": n, "id": f"p{n}", "image": "red.png", "caption": "red"} for n in rows]
            connection.execute(insert(tables.pairs), pairs)
            told = {"batch": batch, "pairs": 1, "state": "sent", "sends": 1, "sent_at": 1.0}
            chunks = [{"number": n, "first_row": n, "last_row": n, **told} for n in rows]
            connection.execute(insert(tables.chunks), chunks)
        connection.execute(update(tables.batches).values(opened_at=1.0))

    database.transact(fill)
    return batch
