"""Which version of the schema the ledger has, and bringing it to the one that this code needs."""

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, select, text

from audit.errors import AuditError, LedgerRefused, LedgerUnavailable, UsageError
from db.engine import LIMITS, Database
from db.tables import schema_serves

HEAD = "0004"
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x6361705F6D6967  # "cap_mig": one migrator at a time on PostgreSQL
MAY_COME = frozenset({"no_database", "no_role", "schema_missing", "schema_older"})
"""What another service may be about to bring while this one starts; a wrong password is wrong in a minute, too."""
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0
OTHERS_TABLES = text(
    "SELECT relname FROM pg_class c WHERE relnamespace = to_regnamespace(current_schema()) AND relkind IN ('r', 'p')"
    " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e') ORDER BY relname"
)
"""Tables of PostgreSQL's current schema, without those that an extension brought."""


def current_revision(database: Database) -> str | None:
    """The ledger's revision; None for an empty database. Raises LedgerRefused when it belongs to something else."""
    with database.reading() as connection:
        return _revision(connection)


def served_revision(database: Database) -> tuple[str | None, bool]:
    """The ledger's revision, and whether this code may work with it: its own, or a newer one that only added."""
    with database.reading() as connection:
        revision = _revision(connection)
        return revision, _serves(connection, revision)


def ensure_schema(database: Database) -> None:
    """Create the schema in an empty database, and bring a SQLite file of an older version up to date.

    A PostgreSQL ledger of an older version is refused with the cure, since a team decides when it migrates. A newer one
    that still serves this version is used: a process may start anew in the middle of a rolling upgrade.
    """
    revision, serves = served_revision(database)
    if serves:
        return
    _refuse_newer(revision)
    if revision is not None and not database.is_sqlite:
        cure = "run `caption-audit db upgrade`"
        raise UsageError("schema_older", f"the ledger has schema {revision}, this version needs {HEAD}: {cure}")
    try:
        upgrade(database)
    except LedgerRefused as error:
        if error.code != "no_privilege":
            raise
        cure = "run `caption-audit db upgrade` with the role that owns the database"
        raise LedgerRefused(
            "schema_missing", f"the ledger has no tables, and this role may not make them: {cure}"
        ) from error


def upgrade(database: Database) -> None:
    """Migrate to HEAD in one transaction; a second migrator waits and finds nothing to do.

    A newer schema is left as it is when it serves this version, and refused otherwise.
    """
    database.transact(_upgrade)


def patiently(work: Callable[[], None], *, wait_s: float, waiting: Callable[[str], None]) -> None:
    """Do `work` as soon as the ledger lets it, for `wait_s` at most, with growing pauses; then raise what it raised.

    For services that start together: `waiting` is told each new reason once. What no waiting cures is raised at once.
    """
    give_up_at, pause_s, told = time.monotonic() + wait_s, FIRST_PAUSE_S, ""
    while True:
        try:
            return work()
        except AuditError as error:
            left_s = give_up_at - time.monotonic()
            if left_s <= 0 or not _may_come(error):
                raise
            if error.detail != told:
                told = error.detail
                waiting(told)
        time.sleep(min(pause_s, max(left_s, 0.01)))
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


def alembic_config(connection: Connection) -> Any:
    """Alembic's configuration, bound to a connection whose transaction the caller owns."""
    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)  # at info it tells of itself, not of the ledger
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _may_come(error: AuditError) -> bool:
    away = isinstance(error, LedgerUnavailable) and not isinstance(error, LedgerRefused)
    return away or error.code in MAY_COME


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # Another migrator may take its time. Tables that are in use are not waited for like that: who waits for such a
        # lock holds up everybody behind it, so the usual limit applies again, and the whole is tried again.
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        connection.exec_driver_sql(LIMITS)
    revision = _revision(connection)
    if _serves(connection, revision):
        return
    _refuse_newer(revision)
    from alembic import command

    command.upgrade(alembic_config(connection), HEAD)


def _serves(connection: Connection, revision: str | None) -> bool:
    if revision is None or revision <= HEAD:
        return revision == HEAD
    oldest: str | None = connection.scalar(select(schema_serves.c.oldest))
    return oldest is not None and oldest <= HEAD


def _refuse_newer(revision: str | None) -> None:
    if revision is not None and revision > HEAD:
        cure = "upgrade caption-audit"
        raise UsageError("schema_newer", f"the ledger has schema {revision}, this version knows {HEAD}: {cure}")


def _revision(connection: Connection) -> str | None:
    if inspect(connection).has_table("alembic_version"):
        revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
        if revision is None or re.fullmatch(r"\d{4}", revision):
            return revision
    tables = _tables(connection)
    if tables:
        shown = ", ".join(tables[:3]) + (", ..." if len(tables) > 3 else "")
        raise LedgerRefused(
            "not_a_ledger", f"the database holds tables of something else ({shown}): give the ledger one of its own"
        )
    return None


def _tables(connection: Connection) -> list[str]:
    if connection.dialect.name == "postgresql":
        return list(connection.scalars(OTHERS_TABLES))
    return inspect(connection).get_table_names()
