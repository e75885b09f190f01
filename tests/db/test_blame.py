"""Who is blamed for a death: whoever did it, and never anybody else, whatever kills the processes around."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import select, update

from audit.holder import Holder, start_ticks, this_process
from audit.pair import BatchId, Row
from db import tables
from db.claim import Refusal
from db.death import Cause, Death
from db.engine import Database
from db.lease import Claim, mark
from db.queries import progress
from db.record import Recorded, record
from db.sweep import Buried, Rules, sweep
from db.workers import SlotState, SlotTold, tell
from tests.support.claims import attempt, batch_of, claimant, dead_process, elsewhere, results, take, yes
from tests.support.waiting import wait_until

CRASH = Death(cause=Cause.DIED, certain=True)
KILLED = Death(cause=Cause.DIED, certain=False)


@pytest.fixture(scope="module")
def dead() -> Holder:
    return dead_process()


def die(
    database: Database, batch: BatchId, holder: Holder, death: Death, *, at: int | None = None, stage: str = "judge"
) -> Claim:
    """Claim, come as far as the marker of this pair, die; the main process, which lives, says how."""
    held = take(database, batch, by=claimant(holder=holder, keeper=this_process()))
    if at is not None:
        mark(database, held, row=Row(at), stage=stage)
    known = {(holder.pid, holder.started): death}
    assert [one.chunk for one in sweep(database, Rules(max_deaths=5, keeper=this_process(), known=known))] == [0]
    return held


def suspected(database: Database, batch: BatchId) -> dict[int, int]:
    with database.reading() as connection:
        found = connection.execute(select(tables.suspects).where(tables.suspects.c.batch == batch))
        return {row.row: row.deaths for row in found}


def test_a_pair_is_named_at_its_second_death_alone(database: Database, dead: Holder) -> None:
    """A pair that crashes its process is found and named after three deaths; its neighbours are judged."""
    batch = batch_of(database, 3)
    die(database, batch, dead, CRASH)
    assert die(database, batch, dead, CRASH, at=1).careful
    assert suspected(database, batch) == {1: 1}
    last = die(database, batch, dead, CRASH, at=1)
    assert last.suspects == {1}
    held = take(database, batch)
    assert record(database, held, [yes(pair) for pair in held.pairs]) is Recorded.DONE
    assert results(database, batch) == {0: "Yes", 1: "worker_died", 2: "Yes"}
    seen = progress(database, batch)
    assert (seen.state, seen.yes, seen.failed, seen.remaining) == ("done", 2, 1, 0)


@pytest.mark.parametrize(("stage", "code"), [("decode", "decoder_crashed"), ("judge", "worker_died")])
def test_the_stage_of_death_names_the_failure(database: Database, dead: Holder, stage: str, code: str) -> None:
    """The code tells a person where to look."""
    batch = batch_of(database, 1)
    for _ in range(2):
        die(database, batch, dead, CRASH, at=0, stage=stage)
    assert attempt(database, batch) is Refusal.DONE
    assert results(database, batch) == {0: code}


def test_a_bare_kill_names_whoever_was_in_hand_at_the_first_death(database: Database, dead: Holder) -> None:
    """A pair that is killed three times, each time with it in hand, does it, though nobody saw how."""
    batch = batch_of(database, 4)
    die(database, batch, dead, Death(cause=Cause.DIED, certain=False, hand=(1, 2)))
    die(database, batch, dead, KILLED, at=2)
    die(database, batch, dead, KILLED, at=2)
    assert results(database, batch) == {2: "worker_died"}


def test_unrelated_kills_blame_nobody(database: Database, dead: Holder) -> None:
    """Somebody kills processes, and twice by chance while the same pair is at hand, that was not in hand before."""
    batch = batch_of(database, 4)
    die(database, batch, dead, Death(cause=Cause.DIED, certain=False, hand=(0, 1)))
    die(database, batch, dead, KILLED, at=3)
    die(database, batch, dead, KILLED, at=3)
    assert (results(database, batch), suspected(database, batch)) == ({}, {3: 2})
    held = take(database, batch)
    assert record(database, held, [yes(pair) for pair in held.pairs]) is Recorded.DONE
    assert results(database, batch) == dict.fromkeys(range(4), "Yes")
    assert suspected(database, batch) == {}


def test_a_pair_that_is_killed_three_times_alone_is_named_at_last(database: Database, dead: Holder) -> None:
    """Nothing loops for ever: what was in hand at the first death may not be known, when a whole worker died."""
    batch = batch_of(database, 2)
    for _ in range(3):
        die(database, batch, dead, KILLED, at=1)
    assert results(database, batch) == {1: "worker_died"}


def test_who_lost_its_ledger_and_left_is_no_death(database: Database, dead: Holder) -> None:
    """The marker stood for as long as the outage: the pair at hand has done nothing."""
    batch = batch_of(database, 2)
    for _ in range(6):
        die(database, batch, dead, Death(cause=Cause.LET_GO, certain=False), at=1)
    assert (suspected(database, batch), progress(database, batch).chunks) == ({}, {"pending": 1})


def test_the_main_process_alone_buries_its_children(database: Database, dead: Holder) -> None:
    """Anybody on the host sees that a process is gone; only its parent knows whether it crashed or was killed."""
    batch = batch_of(database, 2)
    take(database, batch, by=claimant(holder=dead, keeper=this_process()))
    assert attempt(database, batch) is Refusal.HELD
    assert swept(database, Rules(max_deaths=5)) == []
    other = Holder(host=dead.host, boot=dead.boot, pid=1, started=start_ticks(1) or 0)
    assert swept(database, Rules(max_deaths=5, keeper=other)) == []
    told = Rules(max_deaths=5, keeper=this_process(), known={(dead.pid, dead.started): CRASH})
    assert [one.cause for one in swept(database, told)] == [Cause.DIED]


def test_when_the_main_process_is_dead_too_anybody_buries(database: Database, dead: Holder) -> None:
    """A whole worker that is killed must not be waited for."""
    batch = batch_of(database, 2)
    take(database, batch, by=claimant(holder=dead, keeper=dead, lease_s=3600))
    assert take(database, batch).attempt == 2


def test_a_main_process_that_says_nothing_loses_its_right(database: Database, dead: Holder) -> None:
    """It may be stopped, or hang: after the lease, and some time for it, others take over."""
    batch = batch_of(database, 2)
    take(database, batch, by=claimant(holder=dead, keeper=this_process(), lease_s=0.001))
    age_leases(database)
    assert [one.chunk for one in swept(database, Rules(max_deaths=5))] == [0]


@pytest.fixture
def stopped() -> Iterator[Holder]:
    """A living process that somebody has stopped."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: _state(process.pid) == "T", timeout_s=30, what="the process to stop")
    me = this_process()
    yield Holder(host=me.host, boot=me.boot, pid=process.pid, started=start_ticks(process.pid) or 0)
    process.kill()
    process.communicate()


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


def test_a_process_that_was_stopped_blames_no_pair(database: Database, stopped: Holder) -> None:
    """SIGSTOP is not a pair that hangs: its lease ends, the pair is judged elsewhere, however often that happens."""
    batch = batch_of(database, 1)
    for _ in range(4):
        held = take(database, batch, by=claimant(holder=stopped, lease_s=0.001))
        mark(database, held, row=Row(0), stage="judge")
        age_leases(database)
        assert [one.cause for one in swept(database, Rules(max_deaths=5))] == [Cause.STOPPED]
    assert (results(database, batch), suspected(database, batch)) == ({}, {})
    held = take(database, batch)
    assert record(database, held, [yes(pair) for pair in held.pairs]) is Recorded.DONE


def ready_elsewhere(database: Database) -> None:
    """Another worker tells that its slot waits for work."""
    slot = SlotTold(
        slot=0,
        device="cpu",
        model="demo",
        state=SlotState.IDLE,
        child_pid=1,
        model_revision=None,
        precision=None,
        canary=None,
        canary_age_s=None,
        batch=None,
        chunk=None,
        chunk_age_s=None,
        deaths=0,
        recycled=0,
        rss_bytes=None,
        device_bytes=None,
    )
    tell(database, elsewhere(), "another", [slot], up_s=1.0)


def test_a_suspect_is_judged_on_another_slot_if_there_is_one(database: Database, dead: Holder) -> None:
    """A sick device kills whatever it is given: the second death there would prove nothing."""
    batch = batch_of(database, 2)
    die(database, batch, dead, CRASH, at=1)
    assert take(database, batch, by=claimant(slot="w:0")).pairs[-1].row == 1  # nobody else is there
    release_all(database)
    ready_elsewhere(database)
    here = take(database, batch, by=claimant(slot="w:0"))
    assert [pair.row for pair in here.pairs] == [0]
    assert here.left_out == {1}
    assert record(database, here, [yes(here.pairs[0])]) is Recorded.KEPT
    release_all(database)
    assert attempt(database, batch, by=claimant(slot="w:0")) is Refusal.ELSEWHERE
    assert progress(database, batch).chunks == {"pending": 1}
    there = take(database, batch, by=claimant(slot="another:0"))
    assert [pair.row for pair in there.pairs] == [1]
    assert record(database, there, [yes(there.pairs[0])]) is Recorded.DONE
    assert results(database, batch) == {0: "Yes", 1: "Yes"}


def test_a_suspect_does_not_wait_for_another_slot_for_ever(database: Database, dead: Holder) -> None:
    """The others may be busy for an hour."""
    batch = batch_of(database, 1)
    die(database, batch, dead, CRASH, at=0)
    ready_elsewhere(database)
    long_ago = update(tables.suspects).values(died_at=tables.suspects.c.died_at - 60)
    database.transact(lambda connection: connection.execute(long_ago))
    assert take(database, batch, by=claimant(slot="w:0")).suspects == {0}


def age_leases(database: Database) -> None:
    """The same as a minute of waiting."""
    long_ago = update(tables.chunks).values(lease_until=tables.chunks.c.lease_until - 60)
    database.transact(lambda connection: connection.execute(long_ago))


def release_all(database: Database) -> None:
    given_back = update(tables.chunks).values(state="pending", token=None)
    database.transact(lambda connection: connection.execute(given_back))


def swept(database: Database, rules: Rules) -> list[Buried]:
    return list(sweep(database, rules))
