"""A producer killed at each step of a submission: what is committed runs, and nothing is there twice."""

import signal
from pathlib import Path

from sqlalchemy import func, select

from audit.settings import Settings
from db import tables
from producer import submit
from tests.support.manifests import draw, write_csv
from tests.support.processes import python
from tests.support.recovery import recovery
from tests.support.running import changed, check_promises, finished, ledger, results, running, told

PAIRS = 24
DYING = """
import os, signal, sys
from producer import enqueue, registering, submit
from producer.enqueue import Bell
path, step = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

class DyingInside:
    def __init__(self, database):
        self.database = database
    def __getattr__(self, name):
        return getattr(self.database, name)
    def transact(self, work, **knobs):
        return self.database.transact(lambda connection: (work(connection), die()), **knobs)

def inside(real):
    return lambda database, *rest, **knobs: real(DyingInside(database), *rest, **knobs)

def after(real):
    return lambda *given, **knobs: (real(*given, **knobs), die())

match step:
    case "registering": registering.add_slice = inside(registering.add_slice)
    case "registered": registering.open_batch = die
    case "opening": registering.open_batch = inside(registering.open_batch)
    case "opened": registering.open_batch = after(registering.open_batch)
    case "feeding": enqueue.feed = inside(enqueue.feed)
    case "fed": Bell.ring = die
    case "rung": Bell.ring = after(Bell.ring)
submit(path)
"""
BEFORE_THE_COMMIT = ["registering", "registered", "opening"]
AFTER_IT = ["rung", "fed", "feeding", "opened"]
"""In this order: whoever rings rings for the batches before it too, and these are to be left to a worker."""


def killed(settings: Settings, folder: Path, step: str) -> Path:
    """Submit a manifest of this step's own with a producer that dies there; returns the manifest."""
    draw(folder / "red.png")
    rows = [(f"{step}{number}", "red.png", f"stub:yes {number}") for number in range(PAIRS)]
    path = write_csv(folder / f"{step}.csv", rows)
    process = python(DYING, str(path), step, settings=settings)
    _, told_us = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, told_us
    return path


def test_a_producer_killed_anywhere_is_no_loss_and_its_second_run_no_repeat(settings: Settings, tmp_path: Path) -> None:
    """Nightly jobs are killed and started again by people who do not know how far the first one came.

    Safeguard: pairs and chunks are claimable by one last commit; its key finds the batch again; what is marked as sent
    and rings nowhere is sent again, and what is not marked is fed by the workers.
    """
    knobs = {"feed_every_s": 0.2, "resend_s": 0.5, "feed_chunks_per_slot": 100}
    quick = changed(settings, devices="cpu", chunk_pairs=4, cache=False, **knobs)
    steps = BEFORE_THE_COMMIT + AFTER_IT
    paths = [killed(quick, tmp_path, step) for step in steps]
    with ledger(quick) as database:
        with database.reading() as connection:
            made = connection.execute(select(tables.batches.c.id, tables.batches.c.state).order_by(tables.batches.c.id))
            batches = {row.id: row.state for row in made}
        assert list(batches.values()) == ["registering"] * len(BEFORE_THE_COMMIT) + ["open"] * len(AFTER_IT)
        with running(quick, tmp_path) as worker:
            worker.wait_for("model proved")
            with recovery(3, f"killed when {', '.join(AFTER_IT)}: all has run, nobody submitted again", within_s=10):
                for batch in list(batches)[len(BEFORE_THE_COMMIT) :]:
                    finished(quick, batch, watch=worker)
            with recovery(3, f"killed when {', '.join(BEFORE_THE_COMMIT)}: the same commands again", within_s=10):
                for path, (batch, state) in zip(paths, batches.items(), strict=True):
                    with submit(path, settings=quick) as handle:
                        assert (handle.batch, handle.new) == (batch, state == "registering")
                    finished(quick, batch, watch=worker)
        with database.reading() as connection:
            assert connection.scalar(select(func.count()).select_from(tables.batches)) == len(steps)
            assert connection.scalar(select(func.count()).select_from(tables.pairs)) == len(steps) * PAIRS
    for step, batch in zip(steps, batches, strict=True):
        assert results(quick, batch) == {f"{step}{number}": "Yes" for number in range(PAIRS)}
        assert {row.attempt for row in told(quick, batch).values()} == {1}
        check_promises(quick, batch)
