"""Processes that die or hang: what the ledger promises holds after each."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from audit.settings import Settings
from db.queries import progress
from tests.support.manifests import draw, write_csv
from tests.support.recovery import recovery
from tests.support.running import (
    changed,
    check_promises,
    finished,
    ledger,
    results,
    running,
    submitted,
    told,
)
from tests.support.waiting import wait_until


def manifest(folder: Path, captions: Sequence[str]) -> Path:
    """One picture, many captions; the stub engine obeys what they say."""
    draw(folder / "red.png")
    rows = [(f"p{number}", "red.png", caption) for number, caption in enumerate(captions)]
    return write_csv(folder / "pairs.csv", rows)


@pytest.fixture
def quick(sqlite_settings: Settings) -> Settings:
    """Short leases, one slot, so that a death is noticed soon."""
    return changed(
        sqlite_settings, devices="cpu", lease_s=3, pair_limit_s=2, feed_every_s=0.2, resend_s=2, chunk_pairs=8
    )


def test_a_killed_child_costs_nothing_but_time(quick: Settings, tmp_path: Path) -> None:
    """Kill -9 in the middle of a chunk: everything is judged, nobody is blamed, the attempt is counted.

    Safeguard: housekeeping buries a claim whose holder is proved dead (db/sweep.py), long before its lease ends.
    """
    batch = submitted(quick, manifest(tmp_path, [f"stub:sleep=0.2 stub:yes {n}" for n in range(8)]))
    with running(quick, tmp_path) as worker, ledger(quick) as database:
        wait_until(lambda: progress(database, batch).state == "running", timeout_s=60, what="a claim")
        before = progress(database, batch).judged
        worker.children()[0].kill()
        with recovery(1, "SIGKILL of a pool process in the middle of a chunk", within_s=15):
            wait_until(lambda: progress(database, batch).judged > before, timeout_s=60, what="a commit after the kill")
        finished(quick, batch, watch=worker)
    assert set(results(quick, batch).values()) == {"Yes"}
    attempts = {row.attempt for row in told(quick, batch).values()}
    assert attempts in (
        {2},
        {1, 2},
    )  # on a slow machine a third of the lease passes, and with it a commit, before the kill
    check_promises(quick, batch)


def test_a_killed_worker_is_replaced_without_waiting_for_redis(quick: Settings, tmp_path: Path) -> None:
    """The whole group dies; the next worker does not wait an hour for Redis's visibility timeout.

    Safeguard: the chunk is sent again from the ledger (db/sweep.py, db/feed.py), whatever Redis holds as unacked.
    """
    batch = submitted(quick, manifest(tmp_path, [f"stub:sleep=0.2 stub:yes {n}" for n in range(20)]))
    with running(quick, tmp_path) as worker, ledger(quick) as database:
        wait_until(lambda: progress(database, batch).state == "running", timeout_s=60, what="a claim")
        worker.kill()
        before = progress(database, batch).judged
        with recovery(2, "SIGKILL of a whole worker", within_s=30), running(quick, tmp_path) as other:
            wait_until(lambda: progress(database, batch).judged > before, timeout_s=60, what="a commit after the kill")
            finished(quick, batch, timeout_s=60, watch=other)
    assert set(results(quick, batch).values()) == {"Yes"}
    check_promises(quick, batch)


def test_a_pair_that_kills_its_process_is_named_and_its_neighbours_are_judged(quick: Settings, tmp_path: Path) -> None:
    """One poisonous pair of eight: seven verdicts, one failure that names it, and no loop."""
    captions = ["stub:yes"] * 8
    captions[3] = "stub:kill"
    batch = submitted(quick, manifest(tmp_path, captions))
    with running(quick, tmp_path) as worker:
        finished(quick, batch, watch=worker)
    expected = {f"p{n}": "Yes" for n in range(8)} | {"p3": "worker_died"}
    assert results(quick, batch) == expected
    check_promises(quick, batch)


def test_a_pair_that_hangs_in_native_code_is_timed_out(quick: Settings, tmp_path: Path) -> None:
    """No signal handler runs while C code holds the GIL: the process is killed from outside and the pair is named."""
    captions = ["stub:yes"] * 4
    captions[1] = "stub:hang"
    batch = submitted(quick, manifest(tmp_path, captions))
    with running(quick, tmp_path) as worker:
        finished(quick, batch, watch=worker)
    assert results(quick, batch) == {"p0": "Yes", "p1": "timed_out", "p2": "Yes", "p3": "Yes"}
    check_promises(quick, batch)


def test_a_pair_over_its_limit_fails_alone_and_its_chunk_goes_on(quick: Settings, tmp_path: Path) -> None:
    """Slow, but not stuck: nobody is killed, no attempt is charged, and the neighbours wait for two tries at most.

    Safeguard: `in_time` (worker/judging.py) fails a pair that took longer than AUDIT_PAIR_LIMIT_S, and again alone.
    """
    patient = changed(quick, lease_s=20)
    batch = submitted(patient, manifest(tmp_path, ["stub:yes", "stub:sleep=2.5 stub:yes", "stub:no"]))
    with running(patient, tmp_path) as worker:
        finished(patient, batch, watch=worker)
        assert [event["pair"] for event in worker.events("pair over its limit")] == [1]
    assert results(patient, batch) == {"p0": "Yes", "p1": "timed_out", "p2": "No"}
    assert {row.attempt for row in told(patient, batch).values()} == {1}
    check_promises(patient, batch)


def test_of_two_workers_the_one_with_the_hanging_child_frees_its_slot(quick: Settings, tmp_path: Path) -> None:
    """Whoever takes the claim away, the process that hangs must not hold its device for an hour."""
    captions = ["stub:yes"] * 4
    captions[1] = "stub:hang"
    with running(quick, tmp_path) as one, running(quick, tmp_path) as other:
        for worker in (one, other):
            worker.wait_for("model proved")
        batch = submitted(quick, manifest(tmp_path, captions))
        finished(quick, batch, watch=one)
        hung = {event["pid"] for worker in (one, other) for event in worker.wait_for("model proved")[:1]}
        wait_until(
            lambda: len(one.events("stuck process killed") + other.events("stuck process killed")) >= 2,
            timeout_s=60,
            what=f"the hanging processes of {hung} to be killed{one.tail()}{other.tail()}",
        )
    assert results(quick, batch) == {"p0": "Yes", "p1": "timed_out", "p2": "Yes", "p3": "Yes"}
    check_promises(quick, batch)


def test_the_hard_limit_alone_names_a_hanging_pair_too(quick: Settings, tmp_path: Path) -> None:
    """With a lease that is longer than the hard limit it is Celery that kills."""
    slow = changed(quick, lease_s=60, soft_limit_s=1.5, hard_limit_s=3)
    batch = submitted(slow, manifest(tmp_path, ["stub:yes", "stub:hang"]))
    with running(slow, tmp_path) as worker:
        finished(slow, batch, watch=worker)
    assert results(slow, batch) == {"p0": "Yes", "p1": "timed_out"}
    check_promises(slow, batch)


def test_the_soft_limit_blames_no_pair(quick: Settings, tmp_path: Path) -> None:
    """A chunk that is too much for its limit keeps what is judged and goes on with the rest, however slow the machine.

    Safeguard: an attempt that has got something recorded is no death at its limit (worker/tasks.py); else five of them,
    each too slow for more than a pair, would park the chunk.
    """
    slow = changed(quick, lease_s=60, soft_limit_s=2, hard_limit_s=30)
    batch = submitted(slow, manifest(tmp_path, [f"stub:sleep=0.5 stub:no {n}" for n in range(8)]))
    with running(slow, tmp_path) as worker:
        finished(slow, batch, watch=worker)
        assert worker.events("worker process leaves")[0]["reason"] == "soft time limit"
    assert set(results(slow, batch).values()) == {"No"}
    assert check_promises(slow, batch).flagged == 8


def test_children_are_recycled_although_the_model_loads_for_long(quick: Settings, tmp_path: Path) -> None:
    """Celery's default kills a replacement that is silent for 4 s, for ever; a model takes longer than that."""
    slow = changed(quick, stub_load_s=10, max_tasks_per_child=1, chunk_pairs=4)
    batch = submitted(slow, manifest(tmp_path, [f"stub:yes {n}" for n in range(12)]))
    with running(slow, tmp_path) as worker:
        finished(slow, batch, watch=worker, timeout_s=120)
        assert len(worker.events("model proved")) >= 3
        assert worker.events("worker process leaves") == []
    assert {row.attempt for row in told(slow, batch).values()} == {1}
    check_promises(slow, batch)


def test_a_sick_engine_releases_its_chunk_and_leaves(quick: Settings, tmp_path: Path) -> None:
    """A poisoned process (a CUDA error) must not judge on; a pair that does it every time is named in the end.

    Safeguard: `PoisonedProcess` leaves the process before anything of that pass is recorded (worker/tasks.py).
    """
    batch = submitted(quick, manifest(tmp_path, ["stub:yes", "stub:poison", "stub:yes"]))
    with running(quick, tmp_path) as worker:
        worker.wait_for("worker process leaves")
        with recovery(10, "a poisoned process has left", within_s=10):
            worker.wait_for("model proved", count=2)
        finished(quick, batch, watch=worker)
    assert results(quick, batch) == {"p0": "Yes", "p1": "worker_died", "p2": "Yes"}
    check_promises(quick, batch)


def test_scores_that_are_not_finite_are_a_failure_never_a_label(quick: Settings, tmp_path: Path) -> None:
    """The engine still judges the canary, so the pair is at fault, alone."""
    batch = submitted(
        changed(quick, micro_batch=4), manifest(tmp_path, ["stub:yes", "stub:nan", "stub:no", "stub:yes"])
    )
    with running(changed(quick, micro_batch=4), tmp_path) as worker:
        finished(quick, batch, watch=worker)
    assert results(quick, batch) == {"p0": "Yes", "p1": "engine_failed", "p2": "No", "p3": "Yes"}
    assert {row.attempt for row in told(quick, batch).values()} == {1}


def test_out_of_device_memory_halves_the_batch(quick: Settings, tmp_path: Path) -> None:
    """What does not fit together fits in halves; what does not fit alone is a failure of its own."""
    eight = changed(quick, micro_batch=8)
    batch = submitted(eight, manifest(tmp_path, ["stub:oom>2 stub:yes", "stub:oom>0", *["stub:no"] * 6]))
    with running(eight, tmp_path) as worker:
        finished(eight, batch, watch=worker)
    labels = results(eight, batch)
    assert (labels["p0"], labels["p1"], labels["p7"]) == ("Yes", "out_of_device_memory", "No")
    check_promises(eight, batch)
