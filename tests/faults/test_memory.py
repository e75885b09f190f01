"""Native crashes and memory that runs out: the pair that does it is named, its neighbours are judged."""

import resource
from pathlib import Path

import psutil
import pytest

from audit.settings import Settings
from tests.support.cgroups import memory_group
from tests.support.manifests import draw, write_csv
from tests.support.recovery import recovery
from tests.support.running import changed, check_promises, finished, results, running, submitted, told

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


def expected(code: str) -> dict[str, str]:
    return {f"p{number}": "Yes" for number in range(PAIRS)} | {f"p{GUILTY}": code}


@pytest.mark.parametrize("order", ["stub:segv", "stub:abort"])
def test_a_crash_in_native_code_is_named_after_three_deaths_at_most(
    quick: Settings, tmp_path: Path, order: str
) -> None:
    """A model that crashes on one pair must cost that pair, and three reloads at most.

    Safeguard: db/death.py names the pair that was at hand when its process died, alone, and counts in SQL.
    """
    batch = submitted(quick, manifest(tmp_path, order))
    with running(quick, tmp_path) as worker:
        with recovery(22, f"{order}: a crash of the worker process", within_s=60):
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
    with memory_group(megabytes=600) as group, running(quick, tmp_path) as worker:
        group.take(worker.process.pid)
        with recovery(8, "out-of-memory kills of a child until its pair is named", within_s=None):
            finished(quick, batch, watch=worker)
        assert 2 <= group.kills() <= 3
        assert worker.stop() == 0
    assert results(quick, batch) == expected("worker_died")
    assert (told(quick, batch)[f"p{GUILTY}"].attempt or 0) <= 3
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
