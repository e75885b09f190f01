"""`caption-audit worker --guard`: real workers that are stopped, killed and starved, and what heals them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from audit.pair import BatchId
from audit.settings import Settings
from tests.faults.test_stopped import slow_manifest, yes
from tests.support.redis_server import RedisServer
from tests.support.running import (
    ROOT,
    Worker,
    changed,
    check_promises,
    finished,
    results,
    submitted,
    told,
    variables,
)
from tests.support.waiting import wait_until

DIES_AT_LOAD = """
import sys
if "worker" in sys.argv[1:]:
    import worker.lifecycle as lifecycle

    def die(self, **_):
        import os, time
        sys.stderr.write("the driver has gone\\n")
        os._exit(3)

    lifecycle.Lifecycle.on_worker_init = die
"""


class Guard(Worker):
    """`caption-audit worker --guard`; the log holds its lines and its worker's."""

    def start_of(self, number: int) -> psutil.Process:
        """The main process of the worker that was started so many times."""
        ready: list[dict[str, Any]] = self.wait_for("worker ready", count=number)
        return psutil.Process(int(ready[number - 1]["pid"]))

    def restarts(self) -> list[dict[str, Any]]:
        """The list of restarts."""
        path = self.settings.home / "logs" / "restarts.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]


@contextmanager
def guarding(settings: Settings, tmp_path: Path, **environment: str) -> Iterator[Guard]:
    """A guard for the length of a block; what is left of it and of its workers is killed."""
    guard = Guard(settings, log=tmp_path / "guard.log", environment=environment, arguments=("worker", "--guard"))
    family: list[psutil.Process] = []
    try:
        yield guard
    finally:
        family += _family(guard.process.pid)
        guard.kill()
        for one in family:
            if one.is_running():
                one.kill()


def _family(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def gone(*processes: psutil.Process) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


@pytest.fixture
def quick(sqlite_settings: Settings) -> Settings:
    """One slot, and little patience."""
    return changed(
        sqlite_settings,
        devices="cpu",
        lease_s=6,
        pair_limit_s=2,
        feed_every_s=0.2,
        resend_s=2,
        chunk_pairs=4,
        cache=False,
        stop_grace_s=1,
        guard_silent_s=4,
        guard_first_wait_s=0.2,
        guard_longest_wait_s=0.5,
    )


def test_a_main_process_that_hangs_is_ended_and_its_work_goes_on(quick: Settings, tmp_path: Path) -> None:
    """A stopped or deadlocked main process sweeps and feeds nothing, and no pool process is replaced any more.

    Safeguard: ops/watch.py sees that it tells nothing of itself; ops/tending.py ends its whole group and starts anew.
    """
    batch = submitted(quick, slow_manifest(tmp_path, pairs=12))
    with guarding(quick, tmp_path) as guard:
        first = guard.start_of(1)
        guard.wait_for("chunk ended")
        pool = first.children()
        first.suspend()
        second = guard.start_of(2)
        assert gone(first, *pool)
        finished(quick, batch, watch=guard)
        (restart,) = guard.restarts()
        (logged,) = guard.events("worker is started again")
        assert guard.stop() == 0
        assert gone(second)
    assert restart["cause"] == logged["cause"] == f"worker {first.pid} is stopped"
    assert (restart["pid"], restart["without_progress"]) == (first.pid, 1)
    assert results(quick, batch) == yes(12)
    assert check_promises(quick, batch).judged == 12


def test_a_killed_main_process_is_replaced_and_its_chunk_is_judged_once(quick: Settings, tmp_path: Path) -> None:
    """The kernel's out-of-memory killer chooses the main process now and then, and its pool dies with it.

    Safeguard: ops/tending.py; the next worker of this host finds a dead holder, and need not wait for its lease.
    """
    batch = submitted(quick, slow_manifest(tmp_path, pairs=12))
    with guarding(quick, tmp_path) as guard:
        first = guard.start_of(1)
        guard.wait_for("chunk ended")
        pool = first.children()
        first.kill()
        guard.start_of(2)
        assert gone(*pool)
        finished(quick, batch, watch=guard)
        (restart,) = guard.restarts()
        assert guard.stop() == 0
    assert (restart["cause"], restart["ended"]) == ("the worker ended with signal 9", "SIGKILL")
    assert results(quick, batch) == yes(12)
    check_promises(quick, batch)


def test_a_worker_that_never_gets_anywhere_is_given_up_with_the_cause(quick: Settings, tmp_path: Path) -> None:
    """A machine that is broken needs a person: status 69, and a line that says where to look.

    Safeguard: ops/restarts.py counts restarts since the last progress.
    """
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(DIES_AT_LOAD)
    with guarding(quick, tmp_path, PYTHONPATH=f"{hook}:{ROOT}") as guard:
        assert guard.process.wait(timeout=120) == 69
        restarts = guard.restarts()
        last = guard.log.read_text().splitlines()[-1]
    assert [line["without_progress"] for line in restarts] == [1, 2, 3, 4, 5, 5]
    assert [line["wait_s"] is None for line in restarts] == [False] * 5 + [True]
    assert {line["ended"] for line in restarts} == {"status 3"}
    assert last == (
        "caption-audit: the worker was started again 5 times without progress: the worker ended with status 3;"
        " it said last: the driver has gone (worker_given_up)"
    )


def test_slots_that_never_become_ready_are_a_cause_too(quick: Settings, tmp_path: Path) -> None:
    """Everything runs, nothing hangs, and no pair will ever be judged.

    Safeguard: ops/watch.py asks what readiness probes ask, and is patient with a load.
    """
    deaf = changed(quick, stub_load_s=600, canary_limit_s=700, guard_unready_s=1, guard_tries=1)
    with guarding(deaf, tmp_path) as guard:
        assert guard.process.wait(timeout=120) == 69
        causes = [line["cause"] for line in guard.restarts()]
    assert len(causes) == 2
    assert all("none of its 1 slots has proved its model, for " in cause for cause in causes)


def test_a_status_that_no_restart_cures_is_passed_on_at_once(quick: Settings, tmp_path: Path) -> None:
    """A wrong setting stays wrong; five restarts would only hide the line that names it."""
    (tmp_path / "nothing").mkdir()
    with guarding(changed(quick, model=str(tmp_path / "nothing"), engine="ofa"), tmp_path) as guard:
        assert guard.process.wait(timeout=60) == 2
        assert guard.events("worker is started again") == []
        assert "the worker left with status 2: " in guard.tail().splitlines()[-1]


def test_an_outage_of_redis_restarts_nothing(quick: Settings, tmp_path: Path, own_redis: RedisServer) -> None:
    """A restart cannot bring Redis back, and would lose a loaded model.

    Safeguard: what a worker waits for is in its ready file, and ops/watch.py is patient while it waits.
    """
    settings = changed(quick, redis_url=own_redis.url)
    with guarding(settings, tmp_path) as guard:
        first = guard.start_of(1)
        guard.wait_for("model proved")
        own_redis.kill()
        batch = submitted_anyway(settings, tmp_path)
        guard.wait_for("housekeeping waits")
        for _ in range(3):
            written = ready_file(settings, first).stat().st_mtime_ns
            wait_until(
                lambda was=written: ready_file(settings, first).stat().st_mtime_ns != was,  # type: ignore[misc]  # its default
                timeout_s=60,
                what="the worker to tell of itself",
            )
        own_redis.start()
        finished(settings, batch, watch=guard)
        assert first.is_running()
        assert guard.restarts() == []
        assert guard.stop() == 0


def submitted_anyway(settings: Settings, tmp_path: Path) -> BatchId:
    """The batch is in the ledger though nobody could be rung."""
    manifest = slow_manifest(tmp_path, pairs=4, order="stub:yes")
    environ = {**os.environ, **variables(settings)}
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli", "submit", str(manifest), "--json"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return BatchId(json.loads(done.stdout)["batch"])


def told_of(settings: Settings, process: psutil.Process) -> dict[str, Any]:
    """What the worker last told of itself."""
    return dict(json.loads(ready_file(settings, process).read_text()))


def ready_file(settings: Settings, process: psutil.Process) -> Path:
    return settings.home / "run" / f"worker-{process.pid}.json"


def test_a_guard_that_is_told_to_stop_drains_its_worker(quick: Settings, tmp_path: Path) -> None:
    """`kill`, a service manager, Ctrl-C: what is judged is kept, the rest is given back, and nothing is left behind."""
    patient = changed(quick, stop_grace_s=20)
    batch = submitted(patient, slow_manifest(tmp_path, pairs=12))
    with guarding(patient, tmp_path) as guard:
        first = guard.start_of(1)
        guard.wait_for("chunk ended")
        wait_until(lambda: told_of(patient, first)["finished"], timeout_s=60, what="progress to be told of")
        pool = first.children()
        assert guard.stop() == 0
        assert gone(first, *pool)
        assert guard.restarts() == []
    with guarding(patient, tmp_path) as again:
        finished(patient, batch, watch=again)
        again.process.send_signal(signal.SIGINT)
        assert again.process.wait(timeout=60) == 130
    assert {row.attempt for row in told(patient, batch).values()} == {1}
    check_promises(patient, batch)


def test_a_guard_that_is_killed_leaves_no_worker_behind(quick: Settings, tmp_path: Path) -> None:
    """A worker without its guard would go on unseen, beside the one that the next guard starts.

    Safeguard: ops/children.py has the kernel tell a child to stop when its parent dies.
    """
    with guarding(quick, tmp_path) as guard:
        first = guard.start_of(1)
        guard.wait_for("model proved")
        family = [first, *first.children(recursive=True)]
        try:
            guard.process.kill()
            wait_until(lambda: gone(*family), timeout_s=60, what="the worker to leave")
        finally:
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
