"""Sessions with PostgreSQL that end between transactions and in them; and how much is asked in each."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, event, text

from audit.errors import LedgerUnavailable
from audit.message import ChunkMessage
from audit.pair import ChunkNumber
from db.claim import claim
from db.engine import Database
from db.lease import Claim
from db.record import Recorded, record
from tests.support.claims import batch_of, claimant, yes
from tests.support.sql_sessions import another_session

OTHERS = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture
def session(postgres_url: str) -> Iterator[Database]:
    """PostgreSQL alone: SQLite has no sessions."""
    with another_session(postgres_url) as opened:
        yield opened


def end_all_but(database: Database) -> None:
    """As a restart, a failover or an administrator ends them."""
    with database.reading() as connection:
        connection.execute(text(OTHERS)).all()


def test_a_session_that_ended_between_two_transactions_costs_nothing(session: Database, postgres_url: str) -> None:
    """Poolers and firewalls end what is idle. Safeguard: a BEGIN that finds its connection dead takes another."""
    batch = batch_of(session, 1)
    with another_session(postgres_url) as other:
        end_all_but(other)
        held = claim(session, ChunkMessage(batch=batch, chunk=ChunkNumber(0)), claimant())
        assert isinstance(held, Claim)
        end_all_but(other)
        with session.reading() as connection:
            assert connection.scalar(text("SELECT count(*) FROM chunks WHERE state = 'running'")) == 1


def test_a_session_that_ends_within_a_transaction_is_told_and_not_repeated(
    session: Database, postgres_url: str
) -> None:
    """Whether a COMMIT arrived is not known: only who knows that the work may be repeated may repeat it."""
    runs: list[int] = []

    def work(connection: Connection) -> None:
        runs.append(1)
        end_all_but(other)
        connection.execute(text("SELECT 1"))

    with another_session(postgres_url) as other, pytest.raises(LedgerUnavailable):
        session.transact(work)
    assert runs == [1]
    session.transact(lambda connection: connection.execute(text("SELECT 1")))


def test_a_chunk_costs_few_messages_to_the_ledger(database: Database) -> None:
    """Each is a round trip, and half a millisecond of the interpreter: together they were half of a chunk's price."""
    batch = batch_of(database, 4)
    asked: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def _asked(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement.split(maxsplit=1)[0])

    held = claim(database, ChunkMessage(batch=batch, chunk=ChunkNumber(0)), claimant())
    assert isinstance(held, Claim)
    assert asked == ["BEGIN", "SELECT", "SELECT", "UPDATE"]
    asked.clear()
    assert record(database, held, [yes(pair) for pair in held.pairs]) is Recorded.DONE
    writes = ["INSERT", "INSERT"] if database.is_sqlite else ["WITH"]
    assert asked == ["BEGIN", "SELECT", *writes, "SELECT", "UPDATE"]
