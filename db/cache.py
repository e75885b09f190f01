"""The cache of judgements: the same picture, caption, premise and model need not be judged twice."""

from collections.abc import Collection, Mapping

from sqlalchemy import select

from audit.verdict import Scores
from db.engine import Database
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
