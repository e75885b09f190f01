"""Batches whose chunks die at planned steps, and a supervisor that starts a new worker for one that died."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from audit.pair import BatchId
from audit.settings import Settings
from db import tables
from db.queries import progress
from tests.support.running import ROOT, Worker, changed, ledger, running, submitted
from tests.support.waiting import wait_until

HOOKS = ROOT / "tests" / "support" / "crash_points"
NOWHERE = "redis://127.0.0.1:1/0"
"""Submitted without Redis, so that each chunk passes the feed of a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """The steps at which a chunk dies, in this order; `asked_to_stop` is a SIGTERM, all others are kills."""

    steps: tuple[str, ...]

    @property
    def name(self) -> str:
        """For people, and for the test's name."""
        return "-then-".join(self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crashes:
    """A batch, what is planned for its chunks, and the folder where each kill leaves its note."""

    settings: Settings
    batch: BatchId
    plan: Mapping[int, Fate]
    folder: Path

    def done(self) -> set[str]:
        """What has happened: chunk-step."""
        return {path.name.partition("-")[2] for path in self.folder.iterdir()}

    def planned(self) -> set[str]:
        """What should have happened in the end."""
        return {f"{chunk}-{step}" for chunk, fate in self.plan.items() for step in fate.steps}


def planned_batch(settings: Settings, manifest: Path, fates: Sequence[Fate], folder: Path) -> Crashes:
    """Submit; the batch's chunks get these fates in turn."""
    batch = submitted(changed(settings, redis_url=NOWHERE), manifest)
    with ledger(settings) as database, database.reading() as connection:
        numbers = connection.scalars(select(tables.chunks.c.number).where(tables.chunks.c.batch == batch)).all()
    plan = {number: fates[turn % len(fates)] for turn, number in enumerate(sorted(numbers))}
    folder.mkdir()
    return Crashes(settings=settings, batch=batch, plan=plan, folder=folder)


def drain(crashes: Crashes, tmp_path: Path, *, workers: int, timeout_s: float) -> int:
    """Keep so many workers running until the batch is finished, as a supervisor does; returns how many were started.

    A worker whose main process dies loses its other processes too, as under systemd or in a container.
    """
    plan = json.dumps({str(number): fate.steps for number, fate in crashes.plan.items()})
    with ExitStack() as stack, ledger(crashes.settings) as database:

        def another() -> Worker:
            worker = running(
                crashes.settings,
                tmp_path,
                PYTHONPATH=str(HOOKS),
                CRASH_PLAN=plan,
                CRASH_FOLDER=str(crashes.folder),
            )
            return stack.enter_context(worker)

        alive = [another() for _ in range(workers)]

        def finished() -> bool:
            for place, worker in enumerate(alive):
                if worker.process.poll() is not None:
                    worker.kill()
                    alive[place] = another()
            return progress(database, crashes.batch).finished

        try:
            wait_until(finished, timeout_s=timeout_s, what=f"batch {crashes.batch} to finish")
        except AssertionError as error:
            raise AssertionError(f"{error}: {progress(database, crashes.batch)}{alive[-1].tail()}") from None
        for worker in alive:
            worker.stop()
    return len(list(tmp_path.glob("worker-*.log")))
