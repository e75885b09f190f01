"""The feed: a small window in Redis, fair and in order, and nothing that is lost for good."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from sqlalchemy import update

from audit.message import Lane, Rank
from audit.pair import BatchId
from audit.redis_lists import Lying
from db import tables
from db.cancel import cancel_batch
from db.engine import Database
from db.feed import Doorbell, Window, feed, overdue_lanes, unsend
from db.queries import progress
from db.record import record
from tests.support.claims import batch_of, take, yes
from tests.support.sql_sessions import another_session, waits_for_a_lock
from tests.support.waiting import wait_until

EMPTY = dict.fromkeys(Lane, Lying(messages=0, chunks=frozenset()))
"""A Redis that has lost everything."""
WIDE = Window(chunks=100, slots=1)


def fed(
    database: Database, *, window: int = 100, resend_s: float = 3600, lying: Mapping[Lane, Lying] = EMPTY
) -> list[tuple[int, int]]:
    size = Window(chunks=window, slots=1)
    return [(one.batch, one.chunk) for one in feed(database, model="demo", window=size, resend_s=resend_s, lying=lying)]


def sent_long_ago(database: Database, batch: BatchId, *, seconds: float) -> None:
    longer_ago = tables.chunks.c.sent_at - seconds
    this = update(tables.chunks).where(tables.chunks.c.batch == batch).values(sent_at=longer_ago)
    database.transact(lambda connection: connection.execute(this))


def test_the_window_bounds_what_is_in_redis(database: Database) -> None:
    """Redis stays flat however many pairs wait."""
    batch = batch_of(database, 40)
    assert fed(database, window=3) == [(batch, 0), (batch, 1), (batch, 2)]
    assert fed(database, window=3) == []
    record(database, held := take(database, batch, 1), [yes(pair) for pair in held.pairs])
    assert fed(database, window=3) == [(batch, 3)]


def test_only_open_batches_of_the_model_are_fed(database: Database) -> None:
    """A worker with another model would only refuse them."""
    batch_of(database, 4, state="registering")
    batch_of(database, 4, model="another")
    cancel_batch(database, batch_of(database, 4))
    assert fed(database) == []


def test_priority_first_then_tenants_in_turn_then_age(database: Database) -> None:
    """A million pairs of one tenant must not make another wait for its hundred."""
    big = batch_of(database, 12, tenant="big")
    small = batch_of(database, 4, tenant="small")
    urgent = batch_of(database, 4, tenant="big", priority=5)
    assert fed(database) == [(urgent, 0), (big, 0), (small, 0), (big, 1), (big, 2)]


def test_a_tenant_with_less_under_way_goes_first(database: Database) -> None:
    """Turns are kept from feed to feed without remembering anything."""
    big = batch_of(database, 40, tenant="big")
    assert len(fed(database, window=4)) == 4
    small = batch_of(database, 8, tenant="small")
    assert fed(database, window=5) == [(small, 0), (small, 1)]
    assert big < small


def test_lanes_have_windows_of_their_own(database: Database) -> None:
    """A bulk backlog leaves room for interactive work."""
    bulk = batch_of(database, 40)
    assert len(fed(database, window=2)) == 2
    quick = batch_of(database, 8, lane="interactive")
    bells = feed(database, model="demo", window=Window(chunks=2, slots=1))
    assert [(bell.batch, bell.lane) for bell in bells] == [(quick, Lane.INTERACTIVE)] * 2
    assert bulk


def test_a_lost_message_is_sent_again_later_and_later(database: Database) -> None:
    """Redis may forget everything; the ledger does not. Backoff keeps an outage from becoming a flood."""
    batch = batch_of(database, 4)
    assert fed(database, resend_s=10) == [(batch, 0)]
    sent_long_ago(database, batch, seconds=9)
    assert fed(database, resend_s=10) == []
    sent_long_ago(database, batch, seconds=2)
    assert fed(database, resend_s=10) == [(batch, 0)]
    sent_long_ago(database, batch, seconds=19)
    assert fed(database, resend_s=10) == []
    sent_long_ago(database, batch, seconds=2)
    assert fed(database, resend_s=10) == [(batch, 0)]


def test_a_message_behind_others_is_late_not_lost(database: Database) -> None:
    """Long chunks make messages wait; sending them again and again would fill Redis with repeats."""
    batch = batch_of(database, 4)
    fed(database, resend_s=1)
    sent_long_ago(database, batch, seconds=60)
    assert overdue_lanes(database, model="demo", resend_s=1) == {Lane.BULK}
    there = Lying(messages=1, chunks=frozenset({(batch, 0)}))
    assert fed(database, resend_s=1, lying={Lane.BULK: there}) == []
    assert fed(database, resend_s=1, lying={Lane.INTERACTIVE: EMPTY[Lane.BULK]}) == []
    assert fed(database, resend_s=1, lying={Lane.BULK: replace(there, chunks=None)}) == []
    assert fed(database, resend_s=1, lying={Lane.BULK: replace(there, chunks=frozenset({(batch, 1)}))}) == [(batch, 0)]


def test_what_was_claimed_meanwhile_is_not_marked_as_sent(postgres_url: str) -> None:
    """Two sessions of PostgreSQL: the feed chose a chunk, another cancelled its batch before the feed wrote."""
    with another_session(postgres_url) as database, another_session(postgres_url) as other:
        batch = batch_of(database, 4)
        held = other.engine.connect()
        transaction = held.begin()
        cancelled = update(tables.chunks).where(tables.chunks.c.batch == batch).values(state="cancelled")
        held.execute(cancelled)
        with ThreadPoolExecutor(1) as pool:
            feeding = pool.submit(fed, database)
            wait_until(lambda: waits_for_a_lock(other), timeout_s=20, what="the feed to wait for the row")
            transaction.commit()
            assert feeding.result(timeout=20) == []
        held.close()
        assert progress(database, batch).chunks == {"cancelled": 1}


def test_what_could_not_be_rung_is_fed_again_at_once(database: Database) -> None:
    """Redis was away: nobody waits for a backoff that nobody earned."""
    batch = batch_of(database, 4)
    bells = feed(database, model="demo", window=WIDE)
    assert bells == [Doorbell(batch=batch, chunk=bells[0].chunk, pairs=4, lane=Lane.BULK, model="demo", rank=Rank.BULK)]
    unsend(database, bells)
    assert fed(database) == [(batch, 0)]


def test_unsending_leaves_a_claimed_chunk_alone(database: Database) -> None:
    """The message got through although its sender heard of no success."""
    batch = batch_of(database, 4)
    bells = feed(database, model="demo", window=WIDE)
    held = take(database, batch)
    unsend(database, bells)
    assert fed(database) == []
    record(database, held, [yes(pair) for pair in held.pairs])
