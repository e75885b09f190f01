"""Workers that must not start, and children that cannot: the right exit status, one line, and nothing claimed."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from audit.settings import Settings
from db.queries import progress
from tests.support.manifests import small_manifest
from tests.support.redis_server import RedisServer
from tests.support.running import ROOT, changed, finished, ledger, running, submitted, variables
from tests.support.waiting import wait_until


@pytest.fixture
def stub(sqlite_settings: Settings) -> Settings:
    """The stub engine on one CPU slot."""
    return changed(sqlite_settings, devices="cpu", feed_every_s=0.2)


def hook(folder: Path, code: str) -> str:
    """PYTHONPATH with code that every process of ours runs at its start."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return str(folder)


def test_a_model_that_does_not_load_three_times_ends_the_worker_with_69(stub: Settings, tmp_path: Path) -> None:
    """A sick GPU must not loop for ever; the messages stay for a healthy worker."""
    code = (
        "import sys\n"
        "import worker.engines.stub as stub\n"
        "def fails(**_):\n"
        "    raise RuntimeError('the device fell off the bus')\n"
        "stub.load_stub = fails\n"
    )
    batch = submitted(stub, small_manifest(tmp_path))
    with running(stub, tmp_path, PYTHONPATH=hook(tmp_path / "hook", code)) as worker:
        assert worker.process.wait(timeout=90) == 69
        assert "the device fell off the bus" in worker.tail().splitlines()[-1]
    with ledger(stub) as database:
        assert progress(database, batch).chunks == {"sent": 1}


def test_a_worker_without_its_model_refuses_to_start(stub: Settings, tmp_path: Path) -> None:
    """Exit 2, the directory, the reason; no traceback."""
    gone = changed(stub, engine="ofa", model=str(tmp_path / "nowhere"))
    told = subprocess.run(
        [sys.executable, "-m", "ops.cli", "worker"],
        cwd=ROOT,
        env={**os.environ, **variables(gone)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 2
    assert "nowhere: no such directory" in told.stderr
    assert "Traceback" not in told.stderr


def test_celerys_own_command_starts_the_same_worker(stub: Settings, tmp_path: Path) -> None:
    """`celery -A worker.app worker` is what many people type."""
    batch = submitted(stub, small_manifest(tmp_path))
    with (tmp_path / "celery.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "worker.app", "worker"],
            cwd=ROOT,
            env={**os.environ, **variables(stub)},
            stdout=log,
            stderr=log,
        )
    try:
        assert finished(stub, batch).judged == 8
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()


def test_a_worker_that_nobody_listens_to_stops_when_it_is_told(stub: Settings, tmp_path: Path) -> None:
    """`caption-audit worker | head` leaves a pipe without a reader; SIGTERM must still be heard."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ops.cli", "worker"],
        cwd=ROOT,
        env={**os.environ, **variables(stub)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, b"")
        assert any(b"model proved" in line for line in lines)
        process.stdout.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_another_pool_is_refused(stub: Settings, pool: str) -> None:
    """Only processes can be pinned, limited and killed."""
    told = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker.app", "worker", "-P", pool],
        cwd=ROOT,
        env={**os.environ, **variables(stub)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 1
    assert "prefork" in told.stderr.splitlines()[-1]


def test_six_slots_on_three_devices_keep_them_after_a_recycle_and_a_kill(stub: Settings, tmp_path: Path) -> None:
    """Two processes a device, each seeing that one alone before torch could be imported."""
    pinned = changed(
        stub,
        devices="GPU-aaaa,GPU-bbbb,7",
        slots_per_device=2,
        max_tasks_per_child=1,
        chunk_pairs=1,
        stub_pair_s=0.2,
        feed_every_s=0.2,
    )
    expected = dict(enumerate(["GPU-aaaa", "GPU-bbbb", "7"] * 2))
    batch = submitted(pinned, small_manifest(tmp_path, pairs=18))
    with running(pinned, tmp_path) as worker:
        worker.wait_for("slot pinned", count=6)
        finished(pinned, batch, watch=worker)
        known = {event["pid"] for event in worker.wait_for("model proved", count=12)}
        wait_until(lambda: len(worker.children()) == 6, timeout_s=60, what="six children")
        for child in worker.children()[:2]:
            child.kill()
        wait_until(
            lambda: len({event["pid"] for event in worker.events("slot pinned")} - known) >= 2,
            timeout_s=60,
            what="the killed children to be replaced",
        )
        events = worker.events("slot pinned")
    assert {(event["slot"], event["visible"]) for event in events} == set(expected.items())
    assert not any(event["torch_imported"] for event in events)


def worker_of(settings: Settings, tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    """A worker that is expected to leave by itself."""
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", "worker"],
        cwd=ROOT,
        env={**os.environ, **variables(settings)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_wrong_password_of_redis_ends_the_worker(stub: Settings, own_redis: RedisServer, tmp_path: Path) -> None:
    """Celery would try it again for ever, and the operator would see a worker that runs and does nothing."""
    with own_redis.client() as client:
        client.config_set("requirepass", "secret-1")
    url = own_redis.url.replace("://", "://:guess-1@")
    told = worker_of(changed(stub, redis_url=url), tmp_path)
    assert told.returncode == 2
    assert "Redis refuses the password" in told.stderr.splitlines()[-1]
    assert "guess-1" not in told.stderr


def test_a_wrong_password_is_found_out_when_redis_comes_later(
    stub: Settings, own_redis: RedisServer, tmp_path: Path
) -> None:
    """Services that start together: the worker waits for Redis, and is then told that its password is wrong."""
    own_redis.kill()
    secured = changed(stub, redis_url=own_redis.url.replace("://", "://:guess-1@"))
    with running(secured, tmp_path) as worker:
        worker.wait_for("model proved")
        own_redis.start()  # without a password: a given one is wrong
        assert worker.process.wait(timeout=90) == 2
        assert "this Redis has none" in worker.tail().splitlines()[-1]


def test_a_weak_redis_is_said_once_and_worked_with(stub: Settings, own_redis: RedisServer, tmp_path: Path) -> None:
    """What Redis forgets or evicts is sent again: that is no reason to stand still, but somebody should know."""
    with own_redis.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
    weak = changed(stub, redis_url=own_redis.url)
    batch = submitted(weak, small_manifest(tmp_path))
    with running(weak, tmp_path) as worker:
        assert finished(weak, batch, watch=worker).judged == 8
        reasons = [event["reason"] for event in worker.events("redis should be changed")]
    assert [reason.rpartition(": ")[2] for reason in reasons] == [
        "set maxmemory-policy noeviction",
        "set appendonly yes",
    ]


def unprivileged() -> list[str]:
    """What precedes a command whose rights are those that the modes of files give; root has them all."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everything, and there is no setpriv (util-linux) to take that away")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


@pytest.mark.parametrize("empty", [True, False], ids=["new ledger", "ledger of somebody else"])
def test_a_worker_that_may_not_write_its_ledger_refuses_to_start(stub: Settings, tmp_path: Path, empty: bool) -> None:
    """Most often one run as root left it behind: status 2 and what to change, not a worker that waits for ever."""
    folder = tmp_path / "somebody"
    folder.mkdir()
    file = folder / "audit.db"
    if empty:
        file.touch()
    else:
        shutil.copyfile(stub.home / "audit.db", file)
    file.chmod(0o444)
    folder.chmod(0o555)
    theirs = changed(stub, database_url=f"sqlite:///{file}")
    try:
        with running(theirs, tmp_path, before=unprivileged()) as worker:
            assert worker.process.wait(timeout=90) == 2
            assert "this user must be able to write it and its folder" in worker.tail().splitlines()[-1]
    finally:
        folder.chmod(0o755)
