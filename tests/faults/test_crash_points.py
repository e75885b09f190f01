"""SIGKILL at each step of a chunk's life: nothing is lost, nothing is told twice, nobody is blamed."""

from pathlib import Path

import pytest
from sqlalchemy import func, select

from audit.settings import Settings
from db import tables
from tests.support.crash_plans import Crashes, Fate, drain, planned_batch
from tests.support.manifests import small_manifest
from tests.support.recovery import recovery
from tests.support.running import changed, check_promises, ledger, results, told

KILLS = 25
SLOTS = 6
IN_A_POOL_PROCESS = [
    ("received",),  # the message is taken, the chunk not yet
    ("claiming",),  # inside the claim's transaction, before its COMMIT
    ("claimed",),
    ("decoded",),  # with the chunk's first picture
    ("judging",),  # inside the engine
    ("judged",),  # after a micro-batch, with nothing recorded
    ("renewed",),
    ("to_record",),
    ("recording",),  # inside the record's transaction, before its COMMIT
    ("recorded",),  # before Redis hears of it
    ("ended",),
    ("asked_to_stop", "to_release"),
    ("asked_to_stop", "releasing"),
    ("asked_to_stop", "released"),
    # The first death has the rest done with care, pair by pair.
    ("claimed", "marking_decode"),
    ("claimed", "marked_decode"),
    ("claimed", "marking_judge"),
    ("claimed", "marked_judge"),
    ("claimed", "recording"),
    ("claimed", "recorded"),  # one pair's outcome is told, the others' are not
    ("claimed", "asked_to_stop", "to_release"),
]
IN_THE_MAIN_PROCESS = [
    ("fed",),  # marked as sent, and no message exists
    ("rung",),
    ("claimed", "burying"),  # inside the sweep's transaction, before its COMMIT
    ("claimed", "buried"),
]
QUICK_STEPS = {"received", "claiming", "claimed", "judging", "recording", "recorded", "to_release", "marked_judge"}
POOL = [Fate(steps=steps) for steps in IN_A_POOL_PROCESS]
MAIN = [Fate(steps=steps) for steps in IN_THE_MAIN_PROCESS]
QUICK = [fate for fate in POOL if fate.steps[-1] in QUICK_STEPS]
RENEWED = [fate for fate in POOL if "renewed" in fate.steps]
OTHERS = [fate for fate in POOL if fate not in RENEWED]


def crashing(settings: Settings, fates: list[Fate], tmp_path: Path, *, kills: int) -> Crashes:
    """A batch in which each fate comes to `kills` chunks; a renewal needs pairs that take their time."""
    slow, in_main = fates == RENEWED, fates == MAIN
    pairs = 4 if slow else 2
    quick = changed(
        settings,
        devices="cpu",
        # A main process takes the others with it: one of them alone, or chunks would die more often than is planned.
        slots_per_device=1 if in_main else SLOTS if kills == KILLS else 3,
        chunk_pairs=pairs,
        lease_s=3 if slow else 60,  # no death here may wait for a lease
        pair_limit_s=2,
        soft_limit_s=60,  # two pairs' limits would be 4 s, which a busy machine takes for a careful run
        decode_limit_s=2,
        feed_every_s=0.2,
        resend_s=0.5,
        stub_pair_s=0.4 if slow else 0,
        cache=False,
    )
    manifest = small_manifest(tmp_path, pairs=pairs * kills * len(fates))
    return planned_batch(quick, manifest, fates, tmp_path / "deaths")


def check(crashes: Crashes) -> None:
    """Each planned death happened, and left no trace but attempts."""
    assert crashes.done() == crashes.planned()
    outcomes = told(crashes.settings, crashes.batch)
    assert len(outcomes) == crashes.settings.chunk_pairs * len(crashes.plan)
    assert set(results(crashes.settings, crashes.batch).values()) <= {"Yes", "No", "Maybe"}
    with ledger(crashes.settings) as database, database.reading() as connection:
        chunks = connection.execute(select(tables.chunks)).mappings().all()
        assert connection.scalar(select(func.count()).select_from(tables.suspects)) == 0
    assert {chunk["fenced"] for chunk in chunks} == {0}
    tired = {(chunk["number"], crashes.plan[chunk["number"]].name): chunk["attempts"] for chunk in chunks}
    assert {which: attempts for which, attempts in tired.items() if attempts > 3} == {}
    check_promises(crashes.settings, crashes.batch)


@pytest.mark.parametrize("fates", [QUICK, MAIN], ids=["pool", "main"])
def test_kills_at_the_worst_steps_cost_nothing_but_time(
    fates: list[Fate], sqlite_settings: Settings, tmp_path: Path
) -> None:
    """A death at the wrong moment is how outcomes are lost or doubled: the worst moments are tried, on one database.

    Safeguard: one transaction for the claim, one for outcomes and chunk; holders that are proved dead are buried;
    what is marked as sent is sent again.
    """
    crashes = crashing(sqlite_settings, fates, tmp_path, kills=2 if fates == QUICK else 1)
    drain(crashes, tmp_path, workers=1, timeout_s=240)
    check(crashes)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fates", [OTHERS, RENEWED, MAIN], ids=["pool", "renewed", "main"])
def test_a_kill_at_any_step_costs_nothing_but_time(fates: list[Fate], settings: Settings, tmp_path: Path) -> None:
    """Twenty-five chunks die at each step, on either database, and each pair has its one verdict in the end.

    Safeguard: as above; and a marker that is committed before each stage of each pair, and cleared with its outcome.
    """
    crashes = crashing(settings, fates, tmp_path, kills=KILLS)
    kills = sum(len(fate.steps) for fate in crashes.plan.values())
    with recovery(1, f"{kills} kills: {', '.join(fate.name for fate in fates)}", within_s=None):
        drain(crashes, tmp_path, workers=2 if fates == MAIN else 1, timeout_s=1500)
    check(crashes)
