"""Which version of the schema the ledger has, and bringing it to the one that this code needs."""

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text

from audit.errors import UsageError
from db.engine import Database

HEAD = "0002"
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x6361705F6D6967  # "cap_mig": one migrator at a time on PostgreSQL


def current_revision(database: Database) -> str | None:
    """The ledger's revision; None for an empty database."""
    with database.reading() as connection:
        return _revision(connection)


def ensure_schema(database: Database) -> None:
    """Create the schema in an empty database, and bring a SQLite file of an older version up to date.

    A PostgreSQL ledger of an older version is refused with the cure, since a team decides when it migrates.
    """
    revision = current_revision(database)
    if revision == HEAD:
        return
    if revision is not None and revision > HEAD:
        raise UsageError("schema_newer", f"the ledger has schema {revision}, this version knows {HEAD}: upgrade it")
    if revision is not None and not database.is_sqlite:
        raise UsageError("schema_older", f"the ledger has schema {revision}: run `caption-audit db upgrade`")
    upgrade(database)


def upgrade(database: Database) -> None:
    """Migrate to HEAD in one transaction; a second migrator waits and finds nothing to do."""
    database.transact(_upgrade)


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    if _revision(connection) == HEAD:
        return
    from alembic import command

    command.upgrade(alembic_config(connection), HEAD)


def alembic_config(connection: Connection) -> Any:
    """Alembic's configuration, bound to a connection whose transaction the caller owns."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision
