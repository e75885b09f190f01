"""Transactions that get in each other's way on PostgreSQL: run again as a whole, a bounded number of times."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import Connection, text, update

from audit.errors import LedgerUnavailable
from audit.pair import BatchId
from db import tables
from db.engine import POOL_SIZE, Database
from db.queries import progress
from tests.support.claims import batch_of
from tests.support.recovery import recovery
from tests.support.sql_sessions import another_session, waits_for_a_lock
from tests.support.waiting import wait_until


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    """PostgreSQL alone: SQLite has one writer at a time."""
    with another_session(postgres_url) as opened:
        yield opened


def touch(connection: Connection, batch: BatchId) -> None:
    """Lock the batch's chunk, as every writer of it does."""
    connection.execute(
        update(tables.chunks).where(tables.chunks.c.batch == batch).values(sends=tables.chunks.c.sends + 1)
    )


def sends(database: Database, batch: BatchId) -> int:
    with database.reading() as connection:
        found = connection.execute(tables.chunks.select().where(tables.chunks.c.batch == batch)).mappings().one()
        return int(found["sends"])


def test_a_deadlock_is_resolved_by_running_one_transaction_again(database: Database, postgres_url: str) -> None:
    """Two sessions lock the same two rows in opposite order: PostgreSQL ends one, and it must cost no work.

    Safeguard: transact() runs the whole again on a conflict (db/faults.py).
    """
    first, second = batch_of(database, 1), batch_of(database, 1)
    met = Barrier(2)
    runs: list[str] = []

    def crossing(name: str, here: BatchId, there: BatchId) -> Callable[[Connection], None]:
        def work(connection: Connection) -> None:
            runs.append(name)
            touch(connection, here)
            if runs.count(name) == 1:
                met.wait(timeout=30)  # both hold their first row before either asks for its second
            touch(connection, there)

        return work

    with (
        another_session(postgres_url) as other,
        ThreadPoolExecutor(2) as pool,
        recovery(24, "deadlock of two sessions", within_s=5),
    ):
        one = pool.submit(database.transact, crossing("one", first, second))
        two = pool.submit(other.transact, crossing("two", second, first))
        one.result(timeout=60)
        two.result(timeout=60)
    assert len(runs) == 3  # one of them ran twice
    assert (sends(database, first), sends(database, second)) == (2, 2)


def test_a_serialization_failure_is_run_again(database: Database, postgres_url: str) -> None:
    """A row that changed since the transaction's snapshot: the whole is tried again on a new one.

    Safeguard: as above.
    """
    batch = batch_of(database, 1)
    runs: list[int] = []

    def work(connection: Connection) -> None:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        connection.execute(tables.chunks.select()).all()
        runs.append(1)
        if len(runs) == 1:
            other.transact(lambda theirs: touch(theirs, batch))
        touch(connection, batch)

    with another_session(postgres_url) as other, recovery(24, "serialization failure", within_s=5):
        database.transact(work)
    assert (len(runs), sends(database, batch)) == (2, 2)


def test_who_is_in_the_way_for_good_is_not_waited_for_for_ever(database: Database, postgres_url: str) -> None:
    """A person's forgotten transaction must not hang a worker: after its tries it says that the ledger is away."""
    batch = batch_of(database, 1)
    runs: list[int] = []

    def work(connection: Connection) -> None:
        runs.append(1)
        connection.execute(text("SET LOCAL lock_timeout = '50ms'"))
        touch(connection, batch)

    with another_session(postgres_url) as other, other.engine.connect() as held, held.begin():
        touch(held, batch)
        with pytest.raises(LedgerUnavailable, match="lock timeout"):
            database.transact(work, tries=3)
    assert len(runs) == 3
    database.transact(work)
    assert sends(database, batch) == 2  # theirs, and ours


def test_locks_are_not_waited_for_as_long_as_a_lease(database: Database, postgres_url: str) -> None:
    """Eight tries of five seconds would be 40 s without a word: whoever holds a chunk would be killed as stuck."""
    batch = batch_of(database, 1)
    runs: list[int] = []

    def work(connection: Connection) -> None:
        runs.append(1)
        touch(connection, batch)

    with another_session(postgres_url) as other, other.engine.connect() as held, held.begin():
        touch(held, batch)
        with pytest.raises(LedgerUnavailable, match="lock timeout"):
            database.transact(work)
    assert len(runs) in (2, 3)


def test_every_transaction_has_its_limits(database: Database) -> None:
    """Set in each one, since a pooler forgets what was set before it."""
    for _ in range(2):
        with database.reading() as connection:
            shown = [connection.scalar(text(f"SHOW {name}")) for name in ("lock_timeout", "client_encoding")]
            idle = connection.scalar(text("SHOW idle_in_transaction_session_timeout"))
        assert (shown, idle) == (["5s", "UTF8"], "1min")


def test_a_process_takes_no_more_connections_than_are_reckoned_with(database: Database, postgres_url: str) -> None:
    """max_connections is planned with POOL_SIZE a slot; threads that want more wait for each other."""
    asking = Barrier(POOL_SIZE)

    def ask(_: int) -> int:
        with database.reading() as connection:
            asking.wait(timeout=30)  # so many at the same time
            mine = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
            return int(connection.scalar(mine) or 0)

    with ThreadPoolExecutor(POOL_SIZE * 4) as pool:
        assert max(pool.map(ask, range(POOL_SIZE * 4))) == POOL_SIZE


def test_a_client_that_hangs_in_a_transaction_loses_it(database: Database, postgres_url: str) -> None:
    """A stopped process must not keep a chunk locked: the server ends its session, and others go on."""
    batch = batch_of(database, 1)
    with another_session(postgres_url) as other, other.engine.connect() as hanging, ThreadPoolExecutor(1) as pool:
        hanging.begin()
        hanging.execute(text("SET LOCAL idle_in_transaction_session_timeout = '300ms'"))
        touch(hanging, batch)
        waiting = pool.submit(database.transact, lambda connection: touch(connection, batch))
        wait_until(lambda: waits_for_a_lock(other) or waiting.done(), timeout_s=20, what="a writer to wait")
        waiting.result(timeout=60)
        hanging.invalidate()
    assert sends(database, batch) == 1
    assert progress(database, batch).state == "queued"
