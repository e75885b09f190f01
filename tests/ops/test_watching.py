"""Watching a batch that nobody judges: what is missing is said with the cure, and no time left is made up."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import pytest
from sqlalchemy import update

from audit.holder import this_process
from audit.pair import BatchId
from db.breakers import Rules, failed
from db.engine import Database
from db.tables import batches
from db.workers import SlotState, SlotTold, tell
from ops.watching import still
from tests.ops.conftest import COMMAND, Cli, bare
from tests.support.ledger_rows import add_batch, add_chunk

NOBODY = "no living worker is known to hold the model demo: start one (caption-audit up)"
IDLE = SlotTold(slot=0, device="cpu", model="demo", state=SlotState.IDLE, child_pid=11, canary="passed")


@pytest.fixture
def half_done(ledger: Database) -> BatchId:
    """One chunk judged a while ago, another that waits: what a worker that was stopped leaves."""
    batch, now = add_batch(ledger), time.time()
    add_chunk(ledger, batch, 0, "done", yes=9, failed=1, claimed_at=now - 20, done_at=now - 10)
    add_chunk(ledger, batch, 1, "pending")
    return batch


def told(database: Database, slot: SlotTold = IDLE) -> None:
    tell(database, this_process(), "w@here", [slot], up_s=60.0)


@contextmanager
def watching(environment: dict[str, str], batch: BatchId) -> Iterator[IO[str]]:
    """What `watch --json` says on stderr."""
    command = [*COMMAND, "watch", str(batch), "--json"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            yield process.stderr
        finally:
            process.kill()


def test_watching_without_a_worker_names_the_cure_once_and_goes_on(
    environment: dict[str, str], ledger: Database, half_done: BatchId
) -> None:
    """A growing time left, or silence, would leave a first user waiting for ever; and a worker that comes is told."""
    with watching(environment, half_done) as said:
        assert bare(said.readline()) == f"{NOBODY}\n"
        assert said.readline() == (
            f"batch {half_done} running: 10 of 20 pairs, Yes 9, No 0, Maybe 0, failed 1, flagged 0\n"
        )
        told(ledger)
        assert said.readline() == "a worker holds the model demo now\n"
        assert " left\n" in said.readline()
        ledger.transact(lambda connection: connection.exec_driver_sql("UPDATE workers SET seen_at = seen_at - 60"))
        assert bare(said.readline()) == f"{NOBODY}\n"


def test_a_worker_with_another_model_does_not_count(cli: Cli, ledger: Database, half_done: BatchId) -> None:
    """It never claims the batch's chunks."""
    told(ledger, SlotTold(slot=0, device="cpu", model="iic/other", state=SlotState.IDLE))
    shown = bare(cli("status", str(half_done)).stdout).splitlines()
    assert shown[0] == f"batch {half_done} (samples) is running: 10 of 20 pairs, 1 of them failed"
    assert f"  {NOBODY}" in shown
    assert " s " not in cli("status").stdout  # the column `left` is empty


def test_the_cure_names_the_batchs_model_where_another_one_is_set(cli: Cli, ledger: Database) -> None:
    """`up` with the model of the settings would never touch the batch."""
    batch = add_batch(ledger, model="iic/other")
    add_chunk(ledger, batch, 0, "pending")
    assert " AUDIT_MODEL=iic/other " in cli("status", str(batch)).stdout


def test_with_a_worker_the_summary_tells_the_time_left(cli: Cli, ledger: Database, half_done: BatchId) -> None:
    """Loading ones count: they will claim it."""
    told(ledger, SlotTold(slot=0, device="cpu", model="demo", state=SlotState.LOADING))
    shown = cli("status", str(half_done)).stdout
    assert " left" in shown.splitlines()[0]
    assert " s " in cli("status").stdout  # the column `left`
    assert "no living worker" not in shown


def test_a_ledger_without_the_workers_table_is_watched_all_the_same(
    cli: Cli, ledger: Database, half_done: BatchId
) -> None:
    """What is not known is not claimed, and never a traceback."""
    ledger.transact(lambda connection: connection.exec_driver_sql("DROP TABLE workers"))
    done = cli("status", str(half_done))
    assert done.returncode == 0, done.stderr
    assert "no living worker" not in done.stdout


def test_a_batch_whose_pictures_are_away_says_where_and_until_when(
    cli: Cli, ledger: Database, half_done: BatchId
) -> None:
    """Nobody can mend a mount that nobody names; and what comes from there is shown on one line."""
    told(ledger)
    ledger.transact(
        lambda connection: connection.execute(update(batches).values(image_root="/mnt/a\x1b[2Jb"))  # hostile name
    )
    rules = Rules(failures=1, window_s=60.0, open_s=300.0, longest_s=300.0)
    failed(ledger, host="far-host pid:[1]", place="/mnt/a\x1b[2Jb", reason="stale", rules=rules, jitter=lambda: 1.0)
    shown = cli("status", str(half_done)).stdout
    (line,) = [line for line in shown.splitlines() if "pictures wait on" in line]
    assert "far-host: /mnt/a\\x1b[2Jb, left alone for " in line
    assert line.endswith("(stale)")
    assert "pictures wait on far-host" in json.loads(cli("status", str(half_done), "--json").stdout)["waits"]
    assert "pictures wait on far-host" in cli("workers").stdout
    assert "pictures wait" not in cli("status", str(add_batch(ledger, image_root="/mnt/other"))).stdout


def test_a_ledger_without_breakers_is_watched_all_the_same(cli: Cli, ledger: Database, half_done: BatchId) -> None:
    """As above: it is told of by who needs it."""
    told(ledger)
    ledger.transact(lambda connection: connection.exec_driver_sql("DROP TABLE breakers"))
    assert cli("status", str(half_done)).returncode == 0


def test_a_countdown_is_no_news() -> None:
    """Two lines a second for as long as a disk is away would bury what a log of a night says."""
    first = "pictures wait on vm: /nas, left alone for 59 s, tried again in 8.5 s (it is away)"
    later = "pictures wait on vm: /nas, left alone for 1 min 02 s, tried again in 0.18 s (it is away)"
    tried = "pictures wait on vm: /nas, left alone for 1 min 02 s, one chunk tries it now (it is away)"

    assert still(first) == still(later) != still(tried)
