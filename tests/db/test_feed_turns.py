"""The feed's ranks: who goes ahead, who is fed at all, and bulk's guaranteed share."""

from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from audit.message import Lane, Rank
from audit.pair import BatchId
from db import tables
from db.engine import Database
from db.feed import Doorbell, Window, feed, unsend
from db.lease import release
from db.queries import progress
from db.record import record
from tests.support.claims import batch_of, take, yes

Feeding = Callable[[], list[tuple[int, int, Rank]]]


@pytest.fixture
def fed(database: Database) -> Feeding:
    """Feed one worker with one slot; a message is told by batch, chunk and rank."""

    def feeding() -> list[tuple[int, int, Rank]]:
        return [(bell.batch, bell.chunk, bell.rank) for bell in bells(database)]

    return feeding


def bells(database: Database, *, chunks: int = 4, slots: int = 1) -> list[Doorbell]:
    return feed(database, model="demo", window=Window(chunks=chunks, slots=slots))


def judge(database: Database, batch: BatchId, chunk: int) -> None:
    record(database, held := take(database, batch, chunk), [yes(pair) for pair in held.pairs])


def ranks(database: Database, batch: BatchId) -> dict[int, int | None]:
    with database.reading() as connection:
        found = connection.execute(
            select(tables.chunks.c.number, tables.chunks.c.rank).where(tables.chunks.c.batch == batch)
        )
        return {row.number: row.rank for row in found}


def test_a_small_tenant_goes_ahead_of_a_full_window(database: Database, fed: Feeding) -> None:
    """In its turn it would wait for all that the big one has in Redis: minutes, on a slow machine.

    Safeguard: what a tenant with nothing under way has next is sent beyond the window, at the rank before its lane's.
    """
    big = batch_of(database, 40, tenant="big")
    assert fed() == [(big, number, Rank.BULK) for number in range(4)]
    small = batch_of(database, 8, tenant="small")
    assert fed() == [(small, 0, Rank.INTERACTIVE)]
    assert fed() == []
    judge(database, small, 0)
    assert fed() == [(small, 1, Rank.INTERACTIVE)]
    assert ranks(database, small) == {0: Rank.INTERACTIVE, 1: Rank.INTERACTIVE}


def test_many_small_tenants_go_ahead_one_a_slot(database: Database, fed: Feeding) -> None:
    """Redis stays flat, whoever comes."""
    batch_of(database, 40, tenant="big")
    fed()
    small = [batch_of(database, 4, tenant=f"small {number}") for number in range(9)]
    assert [(bell.batch, bell.rank) for bell in bells(database, slots=3)] == [
        (batch, Rank.INTERACTIVE) for batch in small[:3]
    ]
    assert bells(database, slots=3) == []


def test_what_was_tried_before_goes_ahead(database: Database, fed: Feeding) -> None:
    """It is what the end of its batch waits for; given back by a shutdown it only keeps its place."""
    batch = batch_of(database, 40)
    fed()
    release(database, take(database, batch, 2), charge=True)
    release(database, take(database, batch, 3), charge=False)
    assert fed() == [(batch, 2, Rank.INTERACTIVE), (batch, 3, Rank.BULK), (batch, 4, Rank.BULK)]


def test_interactive_work_goes_ahead_within_its_own_lane(database: Database, fed: Feeding) -> None:
    """The four ranks of Redis: bulk's share, interactive ahead, interactive (and bulk ahead), bulk."""
    big = batch_of(database, 40, tenant="big", lane="interactive")
    fed()
    small = batch_of(database, 4, tenant="small", lane="interactive")
    assert fed() == [(small, 0, Rank.AHEAD)]
    assert big < small


def test_batches_of_another_wire_version_are_left_alone(database: Database, fed: Feeding) -> None:
    """An older worker would send a newer batch's chunk to the old queue, where nobody may judge it.

    Safeguard: the feed takes batches of its own wire version alone; the others wait, and are seen to.
    """
    newer = batch_of(database, 4, wire_version=2)
    mine = batch_of(database, 4)
    assert fed() == [(mine, 0, Rank.BULK)]
    assert fed() == []
    seen = progress(database, newer)
    assert (seen.state, seen.remaining, seen.chunks) == ("queued", 4, {"pending": 1})


def interactive_load(database: Database, *, pairs: int, bulk: BatchId) -> tuple[int, int]:
    """Judge what Redis would hand out, by rank, while interactive batches keep coming; returns pairs by lane."""
    waiting: list[Doorbell] = []
    judged = {Lane.INTERACTIVE: 0, Lane.BULK: 0}
    order = [Lane.INTERACTIVE, Lane.BULK]
    while sum(judged.values()) < pairs:
        while sum(bell.lane is Lane.INTERACTIVE for bell in waiting) < 2:
            batch_of(database, 8, chunk_pairs=8, lane="interactive", tenant="quick")
            waiting += bells(database)
        bell = min(waiting, key=lambda one: (one.rank, order.index(one.lane)))
        waiting.remove(bell)
        judge(database, bell.batch, bell.chunk)
        judged[bell.lane] += bell.pairs
    assert progress(database, bulk).judged == judged[Lane.BULK]
    return judged[Lane.INTERACTIVE], judged[Lane.BULK]


def test_bulk_keeps_a_fifth_under_steady_interactive_load(database: Database) -> None:
    """Interactive messages always go first: without a share, a busy day would stop every bulk batch.

    Safeguard: what is sent on the interactive lane earns the bulk lane a quarter of its pairs (20 for 80).
    """
    bulk = batch_of(database, 200, chunk_pairs=10)
    interactive, share = interactive_load(database, pairs=320, bulk=bulk)
    assert 0.18 <= share / (interactive + share) <= 0.25


def test_the_last_bulk_chunks_have_their_share_too(database: Database) -> None:
    """They lie in Redis behind interactive messages already; no pending one is left to go instead of them."""
    bulk = batch_of(database, 20, chunk_pairs=10)
    bells(database)
    interactive_load(database, pairs=120, bulk=bulk)
    assert progress(database, bulk).finished


def credit(database: Database) -> float | None:
    with database.reading() as connection:
        return connection.scalar(select(tables.feed_credit.c.pairs))


def test_credit_is_bounded_and_forgotten_when_no_bulk_waits(database: Database) -> None:
    """A morning of interactive work is not repaid by an afternoon of bulk alone."""
    batch_of(database, 4000, chunk_pairs=1000, lane="interactive")
    bells(database)
    assert credit(database) is None
    bulk = batch_of(database, 80, chunk_pairs=4)
    bells(database)
    quick = batch_of(database, 4000, chunk_pairs=1000, lane="interactive", tenant="another")
    bells(database)
    assert credit(database) == 4 * 4 - 4
    forget = update(tables.chunks).where(tables.chunks.c.batch == bulk).values(state="done")
    database.transact(lambda connection: connection.execute(forget))
    bells(database)
    assert credit(database) == 0.0
    assert quick > bulk


def test_a_message_that_was_not_taken_keeps_nobody_from_going_ahead(database: Database, fed: Feeding) -> None:
    """Redis was away: the small tenant's chunk is pending again, and ahead again."""
    batch_of(database, 40, tenant="big")
    fed()
    small = batch_of(database, 4, tenant="small")
    unsend(database, bells(database))
    assert fed() == [(small, 0, Rank.INTERACTIVE)]
