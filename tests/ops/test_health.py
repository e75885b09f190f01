"""The command health, asked about real workers that load, stop, hang and die."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

from audit.settings import Settings
from tests.ops.conftest import Cli
from tests.support.flower import flower_running
from tests.support.running import changed, running
from tests.support.waiting import wait_until
from worker.seen import Probe, workers_seen


def live(cli: Cli) -> int:
    return cli("health", "--probe", "live").returncode


def ready(cli: Cli) -> int:
    return cli("health").returncode


@contextmanager
def somebody() -> Iterator[int]:
    """A process that has nothing to do with us."""
    process = subprocess.Popen(["sleep", "600"])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def told(home: Path, pid: int, *, ready_pids: dict[str, int], wrote_at: float, **more: str | None) -> None:
    """What a main process writes of itself."""
    path = home / "run" / f"worker-{pid}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"pid": pid, "slots": 2, "ready": ready_pids, "model": "demo", **more}))
    os.utime(path, (wrote_at, wrote_at))


def test_without_a_worker_nothing_is_healthy(cli: Cli) -> None:
    """A check that cannot fail proves nothing."""
    asked = cli("health", "--json")
    assert (asked.returncode, asked.stderr) == (1, "")
    assert json.loads(asked.stdout) == {"probe": "ready", "ok": False, "wrong": ["no worker runs here"], "workers": []}
    assert live(cli) == 1


def test_a_worker_that_loads_lives_but_is_not_ready(cli: Cli, sqlite_settings: Settings, tmp_path: Path) -> None:
    """A restart in the middle of a long load would never end; work sent to it would wait."""
    with running(changed(sqlite_settings, stub_load_s=12), tmp_path):
        wait_until(lambda: live(cli) == 0, timeout_s=60, what="the worker to live")
        asked = cli("health")
        assert (asked.returncode, asked.stdout.partition(": ")[2]) == (1, "none of its 1 slots has proved its model\n")
        wait_until(lambda: ready(cli) == 0, timeout_s=60, what="the worker to be ready")
        (worker,) = json.loads(cli("health", "--json").stdout)["workers"]
        assert {name: worker[name] for name in ("slots", "ready", "stopped")} == {
            "slots": 1,
            "ready": 1,
            "stopped": False,
        }


def test_a_stopped_worker_is_unhealthy_until_it_goes_on(cli: Cli, sqlite_settings: Settings, tmp_path: Path) -> None:
    """A process that exists but does nothing is what health checks are for."""
    with running(sqlite_settings, tmp_path) as worker:
        wait_until(lambda: ready(cli) == 0, timeout_s=60, what="the worker to be ready")
        worker.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: live(cli) == 1, timeout_s=10, what="the stop to be seen")
        assert cli("health").stdout == f"worker {worker.process.pid} is stopped\n"
        worker.process.send_signal(signal.SIGCONT)
        wait_until(lambda: ready(cli) == 0, timeout_s=30, what="the worker to be ready again")


def test_a_worker_without_its_pool_process_is_not_ready(cli: Cli, sqlite_settings: Settings, tmp_path: Path) -> None:
    """The main process alone judges nothing, and its file still names the dead for a moment."""
    with running(changed(sqlite_settings, stub_load_s=5), tmp_path) as worker:
        wait_until(lambda: ready(cli) == 0, timeout_s=60, what="the worker to be ready")
        (child,) = worker.children()
        child.kill()
        wait_until(lambda: ready(cli) == 1, timeout_s=10, what="the death to be seen")
        assert live(cli) == 0
        wait_until(lambda: ready(cli) == 0, timeout_s=60, what="the replacement to be ready")


def test_what_a_killed_worker_left_behind_counts_for_nothing(
    cli: Cli, sqlite_settings: Settings, tmp_path: Path
) -> None:
    """Its file says that all is well; it stays for ever."""
    with running(sqlite_settings, tmp_path) as worker:
        wait_until(lambda: ready(cli) == 0, timeout_s=60, what="the worker to be ready")
        worker.kill()
        assert list((sqlite_settings.home / "run").glob("worker-*.json"))
        assert cli("health", "--probe", "live").stdout == "no worker runs here\n"


def test_silence_is_a_hang(tmp_path: Path) -> None:
    """A main process whose housekeeping stands still runs, and sweeps and feeds nothing."""
    with somebody() as pid:
        now = time.time()
        told(tmp_path, pid, ready_pids={}, wrote_at=now)
        (seen,) = workers_seen(tmp_path, now=now + 61)
        assert seen.wrong(Probe.LIVE, 60) == f"worker {pid} hangs: it has not told of itself for 61 s"
        assert seen.wrong(Probe.LIVE, 62) is None


def test_what_a_worker_waits_for_is_told_and_makes_it_no_worse(cli: Cli, environment: dict[str, str]) -> None:
    """A restart ends no outage of a ledger, but whoever asks should hear of it."""
    home = Path(environment["AUDIT_HOME"])
    with somebody() as pid:
        told(home, pid, ready_pids={}, wrote_at=time.time(), waits="the ledger does not answer")
        asked = cli("health", "--probe", "live")
        assert (asked.returncode, asked.stdout.partition("model ")[2]) == (
            0,
            "demo; it waits: the ledger does not answer\n",
        )
        (worker,) = json.loads(cli("health", "--probe", "live", "--json").stdout)["workers"]
        assert worker["waits"] == "the ledger does not answer"
        told(home, pid, ready_pids={}, wrote_at=time.time())  # by a version that told nothing of it
        (seen,) = workers_seen(home, now=time.time())
        assert seen.waits is None


def test_another_process_with_a_workers_number_is_no_worker(tmp_path: Path) -> None:
    """Numbers of processes come again; a container's are small, and come again at once."""
    with somebody() as pid:
        told(tmp_path, pid, ready_pids={"0": pid}, wrote_at=time.time() - 100)
        assert list(workers_seen(tmp_path, now=time.time())) == []
        told(tmp_path, pid, ready_pids={"0": os.getpid()}, wrote_at=time.time())
        (seen,) = workers_seen(tmp_path, now=time.time())  # our own process is not its child
        assert seen.ready == 0


def test_flower_is_healthy_when_it_answers_and_only_with_its_password(
    cli: Cli, environment: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    """Its own /healthcheck answers whatever happens, and says nothing of an open door."""
    mine = {"AUDIT_HOME": environment["AUDIT_HOME"], "REDIS_URL": redis_url, "AUDIT_FLOWER_PASSWORD": "a good one"}
    with flower_running(mine, tmp_path) as flower:
        told = mine | {"AUDIT_FLOWER_PORT": str(flower.port), "HTTP_PROXY": "http://127.0.0.1:9", "no_proxy": ""}
        assert cli("health", "--probe", "flower", **told).returncode == 0
        other = cli("health", "--probe", "flower", **told | {"AUDIT_FLOWER_PASSWORD": "another one"})
        assert (other.returncode, " answers 401 " in other.stdout, "another" in other.stdout) == (1, True, False)
    gone = cli("health", "--probe", "flower", **told)
    assert (gone.returncode, "does not answer" in gone.stdout) == (1, True)


def test_a_flower_without_a_password_is_not_healthy(cli: Cli, environment: dict[str, str]) -> None:
    """Asking must not make a password that no Flower knows."""
    asked = cli("health", "--probe", "flower")
    assert (asked.returncode, "has no password" in asked.stdout) == (1, True)
    assert not Path(environment["AUDIT_HOME"]).exists()


def test_an_open_flower_is_not_healthy(cli: Cli) -> None:
    """A door that lets everybody in answers with the password, too."""

    class Open(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Open) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        told = {"AUDIT_FLOWER_PORT": str(server.server_port), "AUDIT_FLOWER_PASSWORD": "a good one"}
        asked = cli("health", "--probe", "flower", **told)
        server.shutdown()
    assert (asked.returncode, "answers 200" in asked.stdout) == (1, True)


def test_the_check_is_cheap(sqlite_settings: Settings) -> None:
    """It runs every few seconds beside the work: torch alone would cost it three seconds of a core."""
    told_code = "import sys; from ops.cli import run; run(['health']); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", told_code],
        env={**os.environ, "AUDIT_HOME": str(sqlite_settings.home)},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"torch", "celery", "sqlalchemy", "rich"} & set(loaded)


def test_what_no_worker_wrote_is_passed_over(cli: Cli, environment: dict[str, str]) -> None:
    """A check that hangs on a pipe, or ends with an error, restarts a worker that is well."""
    folder = Path(environment["AUDIT_HOME"]) / "run"
    (folder / "worker-1.json").mkdir(parents=True)
    os.mkfifo(folder / "worker-2.json")
    for number, text in enumerate(("{", "[]", "null", '{"pid": "x"}', " " * 200_000), start=3):
        (folder / f"worker-{number}.json").write_text(text)
    asked = cli("health")
    assert (asked.returncode, asked.stdout) == (1, "no worker runs here\n")
