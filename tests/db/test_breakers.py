"""Breakers: a place of pictures that fails on a host is left alone there, and nobody else notices."""

from dataclasses import replace

import pytest
from sqlalchemy import select, update

from audit.holder import this_process
from audit.pair import BatchId
from db import tables
from db.breakers import Breaker, Rules, answered, failed, open_breakers
from db.claim import Refusal
from db.engine import Database, db_now
from db.feed import Window, feed
from db.lease import Claim, release
from db.tables import ChunkState
from db.workers import SlotState, SlotTold, tell
from tests.support.claims import attempt, batch_of, claimant, elsewhere, take

HERE = this_process().host
RULES = Rules(failures=3, window_s=600.0, open_s=30.0, longest_s=600.0)
WINDOW = Window(chunks=8, slots=2)


def fail(database: Database, place: str = "/mnt/shop", *, host: str = HERE, rules: Rules = RULES) -> float | None:
    return failed(database, host=host, place=place, reason="it does not answer", rules=rules, jitter=lambda: 1.0)


def opened(database: Database, place: str = "/mnt/shop", *, host: str = HERE) -> None:
    assert [fail(database, place, host=host) for _ in range(3)] == [None, None, 30.0]


def passes(database: Database, seconds: float) -> None:
    """Let time pass for all breakers."""
    columns = tables.breakers.c
    earlier = {name: columns[name] - seconds for name in ("failed_at", "opened_at", "open_until", "probe_until")}
    database.transact(lambda connection: connection.execute(update(tables.breakers).values(earlier)))


def state(database: Database, batch: BatchId, number: int = 0) -> tuple[str, int, int]:
    """Its state, attempts and deaths."""
    chunk = tables.chunks.c
    with database.reading() as connection:
        row = connection.execute(
            select(chunk.state, chunk.attempts, chunk.deaths).where(chunk.batch == batch, chunk.number == number)
        ).one()
    return row.state, row.attempts, row.deaths


def fed(database: Database) -> list[tuple[int, int]]:
    return [(bell.batch, bell.chunk) for bell in feed(database, model="demo", window=WINDOW)]


def alive(database: Database, *hosts: str) -> None:
    """Workers of these hosts have just told of themselves."""
    for host in hosts:
        slot = SlotTold(slot=0, device="cpu", model="demo", state=SlotState.IDLE)
        tell(database, replace(this_process(), host=host), f"worker@{host}", [slot], up_s=1.0)


def test_it_opens_after_three_failures_in_a_row_and_for_longer_each_time(database: Database) -> None:
    """One bad read is an accident, three are an outage; and a server that is down for hours is rarely asked."""
    opened(database)
    waits: list[float] = []
    for _ in range(6):
        passes(database, 700.0 if not waits else waits[-1])
        wait_s = fail(database, rules=replace(RULES, window_s=1e9))
        assert wait_s is not None
        waits.append(wait_s)
    assert waits == [60.0, 120.0, 240.0, 480.0, 600.0, 600.0]


def test_failures_far_apart_and_failures_with_a_success_between_are_not_in_a_row(database: Database) -> None:
    """A flaky cable once a day must not stop a shop's audit."""
    assert [fail(database), fail(database)] == [None, None]
    passes(database, 601.0)
    assert [fail(database), fail(database)] == [None, None]
    assert answered(database, host=HERE, place="/mnt/shop") is False
    assert [fail(database), fail(database)] == [None, None]


def test_what_was_in_hand_when_it_opened_counts_for_nothing_more(database: Database) -> None:
    """Eight slots fail in one moment: that is one outage of 30 seconds, not eight doublings."""
    opened(database)
    assert [fail(database) for _ in range(5)] == [None] * 5
    (seen,) = open_breakers(database)
    assert seen.wait_s == pytest.approx(30.0, abs=10.0)


def test_while_it_is_open_its_chunks_wait_uncharged_and_others_are_claimed(database: Database) -> None:
    """The point of it all: no death, nothing parked, and another shop's batch goes on."""
    away, other = batch_of(database, 4, image_root="/mnt/shop"), batch_of(database, 4, image_root="/mnt/other")
    opened(database)
    assert attempt(database, away) is Refusal.PLACE_AWAY
    assert state(database, away) == (ChunkState.PENDING, 0, 0)
    held = take(database, other)
    assert held.place_failed is False


def test_a_mount_that_is_away_on_one_host_stops_no_other_host(database: Database) -> None:
    """A mount is a host's own: its neighbour reads the same pictures."""
    batch = batch_of(database, 4, image_root="/mnt/shop")
    opened(database)
    held = take(database, batch, by=claimant(holder=elsewhere()))
    assert (held.place_failed, held.attempt) == (False, 1)


def test_when_the_time_is_over_one_chunk_tries_and_the_others_wait_for_it(database: Database) -> None:
    """A file server that is just coming back must not meet the whole backlog."""
    batch = batch_of(database, 12, image_root="/mnt/shop")
    opened(database)
    passes(database, 31.0)
    probe = take(database, batch, 0)
    assert probe.place_failed is True
    assert attempt(database, batch, 1) is Refusal.PLACE_AWAY
    assert answered(database, host=HERE, place="/mnt/shop") is True
    assert open_breakers(database) == []
    assert take(database, batch, 1).place_failed is False


def test_a_chunk_that_tries_and_dies_holds_nobody_up_for_ever(database: Database) -> None:
    """Its process may be killed in the middle: after a lease the next one tries."""
    batch = batch_of(database, 12, image_root="/mnt/shop")
    opened(database)
    passes(database, 31.0)
    take(database, batch, 0)
    passes(database, 61.0)
    assert take(database, batch, 1).place_failed is True


def test_a_try_whose_commit_was_not_answered_goes_on(database: Database) -> None:
    """The claim is asked for again: refused, it would keep everybody from the place for a lease."""
    batch = batch_of(database, 12, image_root="/mnt/shop")
    opened(database)
    passes(database, 31.0)
    take(database, batch, 0)
    assert take(database, batch, 0).place_failed is True


def test_a_failed_try_opens_it_again_for_longer(database: Database) -> None:
    """And the chunk that tried is as it was."""
    batch = batch_of(database, 12, image_root="/mnt/shop")
    opened(database)
    passes(database, 31.0)
    probe = take(database, batch, 0)
    assert fail(database) == 60.0
    assert release(database, probe, charge=False) is ChunkState.PENDING
    assert state(database, batch) == (ChunkState.PENDING, 0, 0)
    assert attempt(database, batch) is Refusal.PLACE_AWAY


def test_the_feed_sends_what_somebody_can_read_and_the_rest_when_its_time_has_come(database: Database) -> None:
    """A message that every worker refuses goes round and round; and one that is never sent is never judged."""
    away = batch_of(database, 4, image_root="/mnt/shop")
    other = batch_of(database, 4, image_root="/mnt/other")
    alive(database, HERE)
    opened(database)
    assert fed(database) == [(other, 0)]
    alive(database, "another-host")
    assert fed(database) == [(away, 0)]
    opened(database, host="another-host")
    assert attempt(database, away) is Refusal.PLACE_AWAY
    assert fed(database) == []
    passes(database, 31.0)
    assert fed(database) == [(away, 0)]
    assert isinstance(attempt(database, away), Claim)
    database.transact(
        lambda connection: connection.execute(update(tables.chunks).values(state=ChunkState.PENDING, sent_at=None))
    )
    assert [batch for batch, _ in fed(database)] == [away, other], "the other host may try it, too"


def test_it_says_what_it_leaves_alone_and_until_when(database: Database) -> None:
    """Whoever asks why a batch does not move is told."""
    batch = batch_of(database, 4, image_root="/mnt/shop")
    calm = batch_of(database, 4, image_root="/mnt/other")
    fail(database, "/mnt/other")
    assert open_breakers(database) == []
    opened(database)
    (seen,) = open_breakers(database, batch)
    assert replace(seen, open_age_s=0.0, wait_s=0.0) == Breaker(
        host=HERE, place="/mnt/shop", reason="it does not answer", open_age_s=0.0, wait_s=0.0
    )
    assert seen.open_age_s < 10 < seen.wait_s <= 30
    assert open_breakers(database, calm) == []
    assert [one.place for one in open_breakers(database)] == ["/mnt/shop"]


def test_hosts_that_are_gone_are_forgotten(database: Database) -> None:
    """Containers come with a new host name each."""
    opened(database, host="a-container")
    passes(database, 86_500.0)
    fail(database)
    with database.reading() as connection:
        assert list(connection.scalars(select(tables.breakers.c.host))) == [HERE]
        assert connection.scalar(select(tables.breakers.c.failed_at <= db_now()))
