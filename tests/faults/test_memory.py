"""Native crashes and memory that runs out: the pair that does it is named, its neighbours are judged."""

import resource
from pathlib import Path

import psutil
import pytest

from audit.settings import Settings
from db.queries import progress
from tests.support.cgroups import memory_group
from tests.support.manifests import draw, write_csv
from tests.support.recovery import recovery
from tests.support.running import changed, check_promises, finished, ledger, results, running, submitted, told
from tests.support.waiting import wait_until

GUILTY, PAIRS = 3, 8


@pytest.fixture
def quick(sqlite_settings: Settings) -> Settings:
    """Short leases and one slot."""
    return changed(
        sqlite_settings, devices="cpu", lease_s=6, pair_limit_s=5, feed_every_s=0.2, resend_s=2, chunk_pairs=PAIRS
    )


def manifest(folder: Path, order: str) -> Path:
    """Eight pairs, of which the fourth carries the order."""
    draw(folder / "red.png")
    captions = [f"stub:yes {number}" for number in range(PAIRS)]
    captions[GUILTY] = order
    return write_csv(folder / "pairs.csv", [(f"p{n}", "red.png", caption) for n, caption in enumerate(captions)])


def alive(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def expected(code: str) -> dict[str, str]:
    return {f"p{number}": "Yes" for number in range(PAIRS)} | {f"p{GUILTY}": code}


@pytest.mark.parametrize("order", ["stub:segv", "stub:abort"])
def test_a_crash_in_native_code_is_named_after_three_deaths_at_most(
    quick: Settings, tmp_path: Path, order: str
) -> None:
    """A model that crashes on one pair must cost that pair, and three reloads at most.

    Safeguard: db/death.py names the pair that was at hand when its process died, alone, and counts in SQL.
    """
    with running(quick, tmp_path) as worker, ledger(quick) as database:
        worker.wait_for("model proved")
        (first,) = worker.children()
        batch = submitted(quick, manifest(tmp_path, order))
        wait_until(lambda: not alive(first), timeout_s=60, what="the crash")
        with recovery(22, f"{order}: from a crash to the next verdict", within_s=60):
            wait_until(lambda: progress(database, batch).judged, timeout_s=90, what=f"a verdict{worker.tail()}")
        finished(quick, batch, watch=worker)
        assert len(worker.wait_for("model proved", count=2)) <= 4  # the first process, and one after each death
    assert results(quick, batch) == expected("worker_died")
    assert (told(quick, batch)[f"p{GUILTY}"].attempt or 0) <= 3
    check_promises(quick, batch)


def test_the_kernels_out_of_memory_killer_costs_one_pair(quick: Settings, tmp_path: Path) -> None:
    """In a container one greedy pair makes the kernel kill a process: the pair is named, not its neighbours.

    Safeguard: db/death.py, as above; the main process lives on, for the kernel takes the largest of the group.
    """
    batch = submitted(quick, manifest(tmp_path, "stub:eat=3000"))
    with memory_group(megabytes=600) as group, running(quick, tmp_path) as worker, ledger(quick) as database:
        group.take(worker.process.pid)
        wait_until(group.kills, timeout_s=90, what=f"a kill{worker.tail()}")
        with recovery(8, "from the kernel's kill of a child to the next verdict", within_s=15):
            wait_until(lambda: progress(database, batch).judged, timeout_s=90, what=f"a verdict{worker.tail()}")
        finished(quick, batch, watch=worker)
        assert group.kills() == 3
        assert worker.stop() == 0
    assert results(quick, batch) == expected("worker_died")
    assert told(quick, batch)[f"p{GUILTY}"].attempt == 3
    check_promises(quick, batch)


@pytest.mark.long
def test_a_kill_for_want_of_memory_is_no_bare_kill(quick: Settings, tmp_path: Path) -> None:
    """What was in hand when a whole worker died is not known; then the kernel's word saves one more reload.

    Safeguard: worker/deaths.py compares the kernel's count of such kills, and calls the death the process's own doing.
    """
    draw(tmp_path / "red.png")
    captions = ["stub:sleep=3 stub:yes", "stub:yes", "stub:eat=3000", "stub:no"]
    rows = [(f"p{number}", "red.png", caption) for number, caption in enumerate(captions)]
    with memory_group(megabytes=600) as group:
        with running(quick, tmp_path) as first:
            group.take(first.process.pid)
            first.wait_for("model proved")
            batch = submitted(quick, write_csv(tmp_path / "pairs.csv", rows))
            with ledger(quick) as database:
                wait_until(lambda: progress(database, batch).chunks.get("running"), timeout_s=60, what="a claim")
        assert group.kills() == 0  # it died while its first pair slept
        with running(quick, tmp_path) as worker:
            group.take(worker.process.pid)
            finished(quick, batch, watch=worker)
            assert group.kills() == 2
    assert results(quick, batch) == {"p0": "Yes", "p1": "Yes", "p2": "worker_died", "p3": "No"}
    check_promises(quick, batch)


def test_a_limit_of_addresses_is_a_failure_of_the_pair_alone(quick: Settings, tmp_path: Path) -> None:
    """`ulimit -v` makes Python raise MemoryError: no process needs to die for that, and the code says what it was.

    Safeguard: worker/tasks.py blames a MemoryError only on a pair that was alone.
    """
    batch = submitted(quick, manifest(tmp_path, "stub:eat=3000"))
    before = resource.getrlimit(resource.RLIMIT_AS)
    with running(quick, tmp_path) as worker:
        psutil.Process(worker.process.pid).rlimit(psutil.RLIMIT_AS, (2_500_000_000, before[1]))
        finished(quick, batch, watch=worker)
        assert worker.process.poll() is None
    assert results(quick, batch) == expected("out_of_memory")
    assert (told(quick, batch)[f"p{GUILTY}"].attempt or 0) <= 3
    check_promises(quick, batch)
