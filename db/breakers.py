"""Breakers: a place of pictures that keeps failing on a host is left alone there, and its chunks wait uncharged.

A place is a batch's image root. A row is there from the first failure to the next success; after a few failures in a
row the breaker opens for a while, and each further failure opens it for longer. Once that time is over one chunk tries
the place, and no other: what becomes of it closes the breaker, or opens it again. All by the database's clock.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, exists, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from audit.healing_settings import HealingSettings
from audit.pair import BatchId
from db.codec import escape
from db.engine import Database, db_now
from db.tables import batches, breakers, workers
from db.workers import LATELY_S

KEPT_S = 86_400.0
"""What has not failed for so long is forgotten: the rows of hosts that are gone would pile up."""
MOST_DOUBLINGS = 30
_THIS = and_(breakers.c.host == bindparam("its_host"), breakers.c.place == bindparam("its_place"))
_SEEN = (
    select(
        *(breakers.c[name] for name in ("failures", "openings", "opened_at")),
        (db_now() - breakers.c.failed_at).label("quiet_s"),
        (breakers.c.open_until - db_now()).label("left_s"),
    )
    .where(_THIS)
    .with_for_update()
)
_PROBES = (
    update(breakers)
    .where(_THIS, breakers.c.open_until <= db_now())
    .where(or_(breakers.c.probe_until.is_(None), breakers.c.probe_until <= db_now()))
    .values(probe_until=db_now() + bindparam("lease_s"))
)
_OPEN = and_(
    breakers.c.place == batches.c.image_root,
    or_(breakers.c.open_until > db_now(), breakers.c.probe_until > db_now()),
)
_SOMEBODY = exists().where(
    workers.c.model == bindparam("model"),
    workers.c.seen_at > db_now() - LATELY_S,
    ~exists().where(_OPEN, breakers.c.host == workers.c.host).correlate(batches, workers),
)
AWAY: ColumnElement[bool] = and_(exists().where(_OPEN).correlate(batches), ~_SOMEBODY.correlate(batches))
"""True for batches whose pictures no living host that holds the parameter `model` gets at, at the moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """After how many failures in a row, no further apart than the window, a breaker opens, and for how long."""

    failures: int
    window_s: float
    open_s: float
    longest_s: float

    @classmethod
    def from_settings(cls, settings: HealingSettings) -> "Rules":
        """The operator's."""
        return cls(
            failures=settings.breaker_failures,
            window_s=settings.breaker_window_s,
            open_s=settings.breaker_open_s,
            longest_s=settings.breaker_longest_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """A place that a host leaves alone, since `open_age_s`; in `wait_s` it is tried again (0: a chunk tries it now)."""

    host: str
    place: str
    reason: str
    open_age_s: float
    wait_s: float


def failed(
    database: Database,
    *,
    host: str,
    place: str,
    reason: str,
    rules: Rules,
    jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),  # noqa: S311 - jitter
) -> float | None:
    """Count a failure; returns for how many seconds it has opened the breaker, None when it has not.

    A failure while it is open says nothing new: it is of a chunk that was in hand. Raises LedgerUnavailable.
    """
    this = {"its_host": host, "its_place": place}
    factor = jitter()

    def work(connection: Connection) -> float | None:
        dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
        connection.execute(delete(breakers).where(breakers.c.failed_at < db_now() - KEPT_S))
        row = {"host": host, "place": place, "failures": 0, "reason": ""}
        fresh = dialect.insert(breakers).values(failed_at=db_now(), **row)
        connection.execute(fresh.on_conflict_do_nothing(index_elements=("host", "place")))
        seen = dict(connection.execute(_SEEN, this).mappings().one())
        if seen["left_s"] is not None and seen["left_s"] > 0:
            return None
        failures = seen["failures"] + 1 if seen["quiet_s"] <= rules.window_s else 1
        wait_s = None
        if seen["opened_at"] is not None or failures >= rules.failures:
            wait_s = min(rules.open_s * 2.0 ** min(seen["openings"], MOST_DOUBLINGS), rules.longest_s) * factor
        connection.execute(update(breakers).where(_THIS).values(_failure(seen, failures, reason, wait_s)), this)
        return wait_s

    return database.transact(work)


def answered(database: Database, *, host: str, place: str) -> bool:
    """The place is well: forget its failures. Returns whether it had been left alone. Raises LedgerUnavailable."""
    this = {"its_host": host, "its_place": place}

    def work(connection: Connection) -> bool:
        gone = connection.execute(delete(breakers).where(_THIS).returning(breakers.c.opened_at), this).first()
        return gone is not None and gone.opened_at is not None

    return database.transact(work)


def may_try(connection: Connection, chunk: Mapping[str, Any], host: str, *, lease_s: float) -> bool:
    """Whether this host may read the pictures of a chunk that is about to be claimed; it may be the one that tries.

    `chunk` has `place_open_s` and `place_opened_at` of the place's breaker, None without one.
    """
    if chunk["place_opened_at"] is None:
        return True
    if chunk["place_open_s"] > 0:
        return False
    this = {"its_host": host, "its_place": chunk["image_root"], "lease_s": lease_s}
    return connection.execute(_PROBES, this).rowcount == 1


def open_breakers(database: Database, batch: BatchId | None = None) -> list[Breaker]:
    """Places that are left alone, of one batch or of all, by host and place. Raises LedgerUnavailable."""
    columns = ("host", "place", "reason")
    found = (
        select(
            *(breakers.c[name] for name in columns),
            (db_now() - breakers.c.opened_at).label("open_age_s"),
            (breakers.c.open_until - db_now()).label("wait_s"),
        )
        .where(breakers.c.opened_at.is_not(None))
        .order_by(breakers.c.host, breakers.c.place)
    )
    if batch is not None:
        found = found.where(
            breakers.c.place == select(batches.c.image_root).where(batches.c.id == batch).scalar_subquery()
        )
    with database.reading() as connection:
        return [
            Breaker(
                **{name: row[name] for name in columns},
                open_age_s=max(0.0, row["open_age_s"]),
                wait_s=max(0.0, row["wait_s"]),
            )
            for row in connection.execute(found).mappings()
        ]


def _failure(seen: Mapping[str, Any], failures: int, reason: str, wait_s: float | None) -> dict[str, Any]:
    values: dict[str, Any] = {"failures": failures, "failed_at": db_now(), "reason": escape(reason)}
    if wait_s is None:
        return values
    opened = {} if seen["opened_at"] is not None else {"opened_at": db_now()}
    return {
        **values,
        **opened,
        "open_until": db_now() + wait_s,
        "openings": seen["openings"] + 1,
        "probe_until": None,
    }
