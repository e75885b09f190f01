"""Forgetting judgements that a sick engine has made."""

from sqlalchemy import insert, select

from db.cache import KEYS_A_QUERY, forget, ledger_time, verdicts_of
from db.engine import Database
from db.tables import judgements


def remember(database: Database, *keys: str, at: float) -> None:
    rows = [{"content_key": key, "p_yes": 1.0, "p_no": 0.0, "p_maybe": 0.0, "created_at": at} for key in keys]
    database.transact(lambda connection: connection.execute(insert(judgements), rows))


def there(database: Database) -> set[str]:
    with database.reading() as connection:
        return set(connection.execute(select(judgements.c.content_key)).scalars())


def test_the_keys_of_one_process_go_and_nobody_elses(database: Database) -> None:
    """An entry that is older than the process is not its own, though it judged the same pair; twice does no harm."""
    now = ledger_time(database)
    mine = [f"mine{number}" for number in range(KEYS_A_QUERY + 3)]
    remember(database, *mine, "hers", at=now)
    remember(database, "older", at=now - 100)
    assert forget(database, [*mine, "older", "never"], since=now - 10) == len(mine)
    assert there(database) == {"hers", "older"}
    assert forget(database, mine, since=now - 10) == 0


def test_without_keys_the_time_decides(database: Database) -> None:
    """A process that wrote more than it can remember takes its neighbours' entries with it: they are only a cache."""
    now = ledger_time(database)
    remember(database, "old", at=now - 100)
    remember(database, "new", at=now)
    assert forget(database, None, since=now - 10) == 1
    assert there(database) == {"old"}


def test_what_people_are_told_to_look_at_can_be_asked(database: Database) -> None:
    """A name with a quote in it must not end the statement; both databases understand the time."""
    with database.reading() as connection:
        asked = verdicts_of("o'brien@host:0", since=ledger_time(database))
        assert connection.exec_driver_sql(asked).all() == []
