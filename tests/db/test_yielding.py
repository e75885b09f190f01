"""Which slot gives its chunk back for what is more urgent: never the share, a careful chunk or an equal."""

import pytest
from sqlalchemy import insert, update

from audit.message import Rank
from audit.pair import BatchId, ChunkNumber
from db import tables
from db.engine import Database, db_now
from db.yielding import Held, who_yields
from tests.support.claims import batch_of, take


@pytest.fixture
def bulk(database: Database) -> BatchId:
    """Two chunks in hand, the second one taken last."""
    batch = batch_of(database, 12)
    ranked(database, batch, Rank.BULK)
    for chunk in (0, 1):
        take(database, batch, chunk)
    return batch


def ranked(database: Database, batch: BatchId, rank: Rank, **values: object) -> None:
    this = update(tables.chunks).where(tables.chunks.c.batch == batch).values(rank=int(rank), **values)
    database.transact(lambda connection: connection.execute(this))


def waits(database: Database, *, rank: Rank, lane: str, age_s: float = 5) -> None:
    batch = batch_of(database, 4, lane=lane)
    ranked(database, batch, rank, state="sent", sent_at=db_now() - age_s)


def asked(database: Database, *held: tuple[BatchId, int]) -> Held | None:
    chunks = [(batch, ChunkNumber(number)) for batch, number in held]
    return who_yields(database, model="demo", held=chunks, waits_s=2, lost_s=20)


@pytest.mark.parametrize(("rank", "lane"), [(Rank.AHEAD, "interactive"), (Rank.INTERACTIVE, "bulk")])
def test_the_chunk_that_runs_longest_gives_way(database: Database, bulk: BatchId, rank: Rank, lane: str) -> None:
    """To interactive work, and to another tenant's that goes ahead of its turn."""
    assert asked(database, (bulk, 0), (bulk, 1)) is None
    waits(database, rank=rank, lane=lane)
    assert asked(database, (bulk, 0), (bulk, 1)) == (bulk, 0)


@pytest.mark.parametrize("age_s", [1, 30])
def test_nobody_gives_way_to_what_was_just_sent_or_is_lost(database: Database, bulk: BatchId, age_s: float) -> None:
    """It may be taken in a moment; and a lost message is not found by a free slot."""
    waits(database, rank=Rank.INTERACTIVE, lane="interactive", age_s=age_s)
    assert asked(database, (bulk, 0), (bulk, 1)) is None


def test_nobody_gives_way_in_turn(database: Database, bulk: BatchId) -> None:
    """Bulk work waits for bulk work; two chunks of a rank cannot push each other out."""
    waits(database, rank=Rank.BULK, lane="bulk")
    assert asked(database, (bulk, 0), (bulk, 1)) is None
    ranked(database, bulk, Rank.INTERACTIVE)
    waits(database, rank=Rank.INTERACTIVE, lane="bulk")
    assert asked(database, (bulk, 0), (bulk, 1)) is None


def test_one_slot_at_work_for_the_urgent_is_enough(database: Database, bulk: BatchId) -> None:
    """It takes the next one as well, and bulk keeps the other slots."""
    waits(database, rank=Rank.INTERACTIVE, lane="interactive")
    quick = batch_of(database, 4, lane="interactive")
    ranked(database, quick, Rank.INTERACTIVE)
    take(database, quick)
    assert asked(database, (bulk, 0), (quick, 0)) is None


def test_bulks_share_and_careful_chunks_are_never_asked(database: Database, bulk: BatchId) -> None:
    """A guarantee that can be taken back is none; and a suspect is to be settled."""
    waits(database, rank=Rank.AHEAD, lane="interactive")
    suspect = {"batch": bulk, "row": 0, "deaths": 1}
    database.transact(lambda connection: connection.execute(insert(tables.suspects), [suspect]))
    assert asked(database, (bulk, 0), (bulk, 1)) == (bulk, 1)
    ranked(database, bulk, Rank.SHARE)
    assert asked(database, (bulk, 0), (bulk, 1)) is None
    ranked(database, bulk, Rank.BULK, deaths=1)
    assert asked(database, (bulk, 0), (bulk, 1)) is None
