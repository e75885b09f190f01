"""A real worker in a process group of its own, for tests that watch it, and tests that hurt it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import and_, func, select

from audit.pair import BatchId
from audit.settings import Settings
from db import tables
from db.engine import Database, open_database
from db.exports import OutcomeRow, outcomes
from db.queries import Progress, progress
from db.verify import verify_batch
from db.verify_whole import verify_catalogue
from producer import submit
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """`caption-audit worker` with the given settings; its log is read as events.

    `before` precedes its command; `code` is the folder of its packages.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        code: Path = ROOT,
        arguments: Sequence[str] = ("worker",),
    ) -> None:
        self.settings = settings
        self.log = log
        environ = {**os.environ, **variables(settings), **(environment or {})}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", "ops.cli", *arguments],
                cwd=code,
                env=environ,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def events(self, name: str) -> list[dict[str, Any]]:
        """Every event of that name so far."""
        return [event for event in self.lines() if event.get("event") == name]

    def lines(self) -> list[dict[str, Any]]:
        """Every event so far."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def wait_for(self, name: str, *, count: int = 1, timeout_s: float = 60) -> list[dict[str, Any]]:
        """Until the event was logged so many times."""
        wait_until(
            lambda: len(self.events(name)) >= count, timeout_s=timeout_s, what=f"{count} x {name!r} in\n{self.tail()}"
        )
        return self.events(name)

    def children(self) -> list[psutil.Process]:
        """The pool processes."""
        return [child for child in psutil.Process(self.process.pid).children() if child.status() != "zombie"]

    def tail(self) -> str:
        """The end of the log, for assertion messages."""
        return self.log.read_text(errors="replace")[-3000:]

    def stop(self, *, timeout_s: float = 60) -> int:
        """SIGTERM to the main process, as a service manager does; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=timeout_s)

    def kill(self) -> None:
        """SIGKILL to the whole group, also to what a dead main process has left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)


@contextmanager
def running(
    settings: Settings, tmp_path: Path, *, before: Sequence[str] = (), code: Path = ROOT, **environment: str
) -> Iterator[Worker]:
    """A worker for the length of a block; what is left of it is killed."""
    number = len(list(tmp_path.glob("worker-*.log")))
    log = tmp_path / f"worker-{number}.log"
    worker = Worker(settings, log=log, environment=environment, before=before, code=code)
    try:
        yield worker
    finally:
        worker.kill()


def variables(settings: Settings) -> dict[str, str]:
    """The environment that gives another process these settings."""
    given = settings.model_dump(exclude_unset=True)
    names = {"database_url": "DATABASE_URL", "redis_url": "REDIS_URL"}
    secret = {"database_url": settings.database_url, "redis_url": settings.redis_url}
    plain = {name: secret[name].get_secret_value() if secret.get(name) else value for name, value in given.items()}  # type: ignore[union-attr]
    return {names.get(name, f"AUDIT_{name.upper()}"): str(value) for name, value in plain.items() if value is not None}


def changed(settings: Settings, **fields: object) -> Settings:
    """The settings with other values, checked as the environment's are."""
    return Settings.model_validate({**settings.model_dump(exclude_unset=True), **fields})


def submitted(settings: Settings, manifest: Path) -> BatchId:
    """Submit, and return the batch."""
    return submit(manifest, settings=settings).batch


@contextmanager
def ledger(settings: Settings) -> Iterator[Database]:
    """The ledger of these settings."""
    database = open_database(settings.ledger_url)
    try:
        yield database
    finally:
        database.close()


def finished(settings: Settings, batch: BatchId, *, timeout_s: float = 90, watch: Worker | None = None) -> Progress:
    """Wait for the batch's end."""
    with ledger(settings) as database:
        what = f"batch {batch} to finish{watch.tail() if watch else ''}"
        wait_until(lambda: progress(database, batch).finished, timeout_s=timeout_s, what=what)
        return progress(database, batch)


def told(settings: Settings, batch: BatchId) -> dict[str, OutcomeRow]:
    """Outcomes by the user's id."""
    with ledger(settings) as database:
        return {row.id: row for row in outcomes(database, batch)}


def results(settings: Settings, batch: BatchId) -> dict[str, str]:
    """Label or failure code by the user's id."""
    return {pair: row.label or str(row.failure_code) for pair, row in told(settings, batch).items()}


def check_promises(settings: Settings, batch: BatchId) -> Progress:
    """What must hold after any fault, once the batch has drained.

    What `caption-audit verify` finds, and assertions that share no code with it: one bug must not blind both.
    """
    with ledger(settings) as database:
        seen = progress(database, batch)
        rows = list(outcomes(database, batch))
        if database.is_sqlite:
            with database.reading() as connection:
                assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        counted = _counted(database, batch)
        findings = [*verify_batch(database, batch), *verify_catalogue(database)]
    assert findings == [], findings
    assert counted == {}, f"chunks whose counts are not those of their outcomes: {counted}"
    assert seen.submitted == seen.yes + seen.no + seen.maybe + seen.failed + seen.cancelled
    assert len(rows) == len({row.row for row in rows}) == seen.judged
    assert all(row.worker and row.model and row.attempt is not None for row in rows)
    return seen


def _counted(database: Database, batch: BatchId) -> dict[int, tuple[int, int]]:
    """Chunks whose own count of outcomes is not what the outcomes table holds."""
    chunks, outcomes_of = tables.chunks.c, tables.outcomes.c
    judged = chunks.yes + chunks.no + chunks.maybe + chunks.failed
    with database.reading() as connection:
        found = connection.execute(
            select(chunks.number, judged.label("told"), func.count(outcomes_of.row).label("found"))
            .outerjoin(
                tables.outcomes,
                and_(outcomes_of.batch == chunks.batch, outcomes_of.row.between(chunks.first_row, chunks.last_row)),
            )
            .where(chunks.batch == batch)
            .group_by(chunks.number, judged)
        )
        return {row.number: (row.told, row.found) for row in found if row.told != row.found}
