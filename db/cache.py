"""The cache of judgements: the same picture, caption, premise and model need not be judged twice."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from sqlalchemy import delete, select

from audit.verdict import Scores
from db.engine import Database, db_now
from db.tables import judgements

KEYS_A_QUERY = 500
"""Below SQLite's oldest limit of 999 variables a statement."""


def remembered(database: Database, keys: Collection[str]) -> Mapping[str, Scores]:
    """Scores of those content keys that were judged before; failures are never remembered."""
    found: dict[str, Scores] = {}
    ordered = sorted(keys)
    with database.reading() as connection:
        for start in range(0, len(ordered), KEYS_A_QUERY):
            some = ordered[start : start + KEYS_A_QUERY]
            for row in connection.execute(select(judgements).where(judgements.c.content_key.in_(some))):
                found[row.content_key] = Scores(p_yes=row.p_yes, p_no=row.p_no, p_maybe=row.p_maybe)
    return found


def forget(database: Database, keys: Collection[str] | None, *, since: float) -> int:
    """Drop judgements under these keys, or under any with None, that were remembered since then; returns how many.

    `since` is by the ledger's clock: an entry that is older is somebody else's. Idempotent. Raises LedgerUnavailable.
    """
    fresh = judgements.c.created_at >= since
    if keys is None:
        return database.transact(lambda connection: connection.execute(delete(judgements).where(fresh)).rowcount)
    ordered, dropped = sorted(keys), 0  # two that drop the same ones cannot lock each other in opposite order
    for start in range(0, len(ordered), KEYS_A_QUERY):
        these = delete(judgements).where(judgements.c.content_key.in_(ordered[start : start + KEYS_A_QUERY]), fresh)
        dropped += database.transact(lambda connection, these=these: connection.execute(these).rowcount)  # type: ignore[misc]  # its default
    return dropped


def ledger_time(database: Database) -> float:
    """Seconds since the epoch by the ledger's clock. Raises LedgerUnavailable."""
    with database.reading() as connection:
        return float(connection.execute(select(db_now())).scalar_one())


def verdicts_of(worker: str, *, since: float) -> str:
    """SQL for people, of either database: what this worker's slot has recorded since then."""
    at = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    name = worker.replace("'", "''")
    return f"SELECT * FROM verdicts WHERE worker = '{name}' AND judged_at >= '{at}'"  # noqa: S608 - it is only shown


def by_hand(*, since: float) -> str:
    """SQL for people: what forget() does, where it could not be done."""
    return f"DELETE FROM judgements WHERE created_at >= {since:.0f}"  # noqa: S608 - it is only shown
