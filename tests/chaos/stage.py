"""The system under the rain: servers of its own, two workers, and what the ledger says of itself."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import text

from audit.errors import LedgerUnavailable
from audit.holder import start_ticks
from audit.settings import DEMO_MODEL, Settings
from db.engine import Database, open_database
from db.schema import ensure_schema
from tests.chaos.supervisor import Post, Supervisor
from tests.chaos.truth import decoder_hook
from tests.support.postgres_server import PostgresServer, find_binaries
from tests.support.redis_server import RedisServer, find_redis

LEDGER = "ledger"
HELD = "SELECT batch, number, holder_pid, holder_started FROM chunks WHERE state = 'running'"
COUNTS = (
    "SELECT coalesce(sum(yes + no + maybe + failed), 0) AS judged,"
    " count(*) FILTER (WHERE state IN ('pending', 'sent', 'running')) AS open,"
    " count(*) FILTER (WHERE state = 'running') AS running, count(*) FILTER (WHERE state = 'parked') AS parked,"
    " coalesce(sum(attempts), 0) AS attempts, coalesce(sum(fenced), 0) AS fenced FROM chunks"
)


class Missing(Exception):
    """Something that the run needs is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A chunk that a living process of ours has in hand; `post` is None when its main process is gone."""

    batch: int
    chunk: int
    pid: int
    started: int
    post: Post | None

    @property
    def lives(self) -> bool:
        """Whether it is still the same process."""
        return start_ticks(self.pid) == self.started


@dataclass(slots=True, kw_only=True)
class Stage:
    """What faults strike."""

    folder: Path
    settings: Settings
    redis: RedisServer
    postgres: PostgresServer | None
    supervisor: Supervisor

    @contextmanager
    def ledger(self) -> Iterator[Database]:
        """A look at the ledger by connections of its own."""
        database = open_database(self.settings.ledger_url, busy_s=2.0)
        try:
            yield database
        finally:
            database.close()

    def query(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        """Rows of a statement; raises LedgerUnavailable."""
        with self.ledger() as database, database.reading() as connection:
            return [dict(row) for row in connection.execute(text(statement), values).mappings()]

    def counts(self) -> dict[str, int]:
        """Sums over all chunks; raises LedgerUnavailable."""
        return {name: int(value) for name, value in self.query(COUNTS)[0].items()}

    def holdings(self) -> list[Holding]:
        """Chunks in the hands of processes that live and are not stopped; none while the ledger does not answer."""
        try:
            rows = self.query(HELD)
        except LedgerUnavailable:
            return []
        found = [
            Holding(
                batch=row["batch"],
                chunk=row["number"],
                pid=row["holder_pid"],
                started=row["holder_started"],
                post=self._post_of(row["holder_pid"]),
            )
            for row in rows
        ]
        return [held for held in found if held.lives and not _is_stopped(held.pid)]

    def _post_of(self, pid: int) -> Post | None:
        try:
            parent = psutil.Process(pid).ppid()
        except psutil.Error:
            return None
        return next((post for post in self.supervisor.posts if post.worker.process.pid == parent), None)


@contextmanager
def staged(folder: Path, *, database: str, workers: int, **fields: object) -> Iterator[Stage]:
    """Servers and workers for the length of a block; every process that was started is ended behind it."""
    executable = find_redis()
    if executable is None:
        raise Missing("there is no redis-server")
    redis, postgres, supervisor = RedisServer(executable), None, None
    try:
        redis.start()
        url = f"sqlite:///{folder}/home/audit.db"
        if database == "postgresql":
            postgres = _postgres()
            url = postgres.url(LEDGER)
        settings = Settings.model_validate(
            {"home": folder / "home", "database_url": url, "redis_url": redis.url, "model": str(DEMO_MODEL), **fields}
        )
        opened = open_database(settings.ledger_url)
        ensure_schema(opened)
        opened.close()
        hook = decoder_hook(folder / "hook")
        path = os.pathsep.join([hook, *filter(None, [os.environ.get("PYTHONPATH")])])
        supervisor = Supervisor(settings, folder, workers=workers, environment={"PYTHONPATH": path})
        yield Stage(folder=folder, settings=settings, redis=redis, postgres=postgres, supervisor=supervisor)
    finally:
        if supervisor is not None:
            supervisor.close()
        if postgres is not None:
            postgres.close()
        redis.close()


def _postgres() -> PostgresServer:
    binaries = find_binaries()
    if binaries is None:
        raise Missing("there is no PostgreSQL: install one, or take --database sqlite")
    server = PostgresServer(binaries, durable=True)
    try:
        server.start()
        server.create(LEDGER)
    except BaseException:
        server.close()
        raise
    return server


def new_folder() -> Path:
    """Where a run keeps its logs and its ledger."""
    return Path(tempfile.mkdtemp(prefix="caption-audit-chaos-"))


def _is_stopped(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return True
