"""`up`: everything in one terminal, one at a time, and nothing to clean up whatever happens."""

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from db.engine import open_database
from db.queries import progress
from db.tables import chunks
from tests.ops.conftest import COMMAND, Cli
from tests.support.flower import FlowerSeen
from tests.support.manifests import draw, small_manifest, write_csv
from tests.support.ports import free_port
from tests.support.waiting import wait_until

START_S = 60.0


class Up:
    """A running `caption-audit up`."""

    def __init__(self, environment: dict[str, str], folder: Path, *arguments: str) -> None:
        self.home = Path(environment["AUDIT_HOME"])
        self.out, self.err = folder / f"up-{time.monotonic_ns()}.out", folder / f"up-{time.monotonic_ns()}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*COMMAND, "up", *arguments], env=environment, cwd=folder, stdout=out, stderr=err
            )

    def ready(self) -> "Up":
        wait_until(self._ready, timeout_s=START_S, what="up to be ready")
        return self

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.err.read_text()
        return "caption-audit is up" in self.out.read_text()

    def children(self) -> dict[str, psutil.Process]:
        """Redis, the worker and Flower, as the lock file names them."""
        told = json.loads((self.home / "up.lock").read_text())
        alive = [child for child in told["children"] if psutil.pid_exists(child["pid"])]
        return {child["kind"]: psutil.Process(child["pid"]) for child in alive}

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@pytest.fixture
def stub(environment: dict[str, str], model_directory: Path) -> dict[str, str]:
    """The environment of a worker that answers without a model."""
    return environment | {
        "AUDIT_ENGINE": "stub",
        "AUDIT_MODEL": str(model_directory),
        "AUDIT_DEVICES": "cpu",
        "AUDIT_FEED_EVERY_S": "0.2",
    }


@pytest.fixture
def start_up(stub: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*arguments: str, **env: str) -> Up:
        started.append(Up(stub | env, tmp_path, *(arguments or ("--no-flower",))))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def gone(processes: dict[str, psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != "zombie" for process in processes.values())


def test_up_judges_what_is_submitted_and_ctrl_c_ends_everything(
    start_up: Callable[..., Up], cli: Cli, stub: dict[str, str], tmp_path: Path
) -> None:
    """The README's two commands: `up` in one terminal, `submit --watch` in another; Ctrl-C leaves nothing behind."""
    up = start_up().ready()
    submitted = cli("submit", str(small_manifest(tmp_path, pairs=5)), "--watch", "--json", **stub)
    assert submitted.returncode == 0, submitted.stderr
    told = json.loads(submitted.stdout)
    assert (told["pairs"], told["new"], told["state"], told["counts"]["remaining"]) == (5, True, "done", 0)
    children = up.children()
    assert sorted(children) == ["redis", "worker"]
    pool = {str(child.pid): child for child in children["worker"].children(recursive=True)}
    assert pool

    second = cli("up", **stub)
    assert second.returncode == 1
    assert f"process {up.process.pid} (`caption-audit up`, since " in second.stderr
    assert len(second.stderr.splitlines()) == 1

    assert up.end(signal.SIGINT) == 0
    assert gone(children)
    assert gone(pool)
    assert not (up.home / "redis" / "redis.sock").exists()


def test_a_pair_that_outlasts_ups_patience_is_given_back_before_the_kill(
    start_up: Callable[..., Up], cli: Cli, stub: dict[str, str], tmp_path: Path
) -> None:
    """Ctrl-C in the middle of a long pair: `up` kills after its own patience, which must not count as a death."""
    draw(tmp_path / "red.png")
    pairs = write_csv(tmp_path / "long.csv", [("p0", "red.png", "stub:sleep=60 stub:yes")])
    up = start_up(AUDIT_SHUTDOWN_GRACE_S="5", AUDIT_LEASE_S="100", AUDIT_PAIR_LIMIT_S="90").ready()
    submitted = cli("submit", str(pairs), "--json", **stub)
    batch = json.loads(submitted.stdout)["batch"]
    database = open_database(f"sqlite:///{up.home}/audit.db")
    try:
        wait_until(lambda: progress(database, batch).chunks.get("running"), timeout_s=30, what="a claim")
        assert up.end(signal.SIGINT) == 0
        with database.reading() as connection:
            chunk = connection.execute(select(chunks.c.state, chunks.c.attempts, chunks.c.deaths)).one()
    finally:
        database.close()
    assert tuple(chunk) == ("pending", 0, 0)


def test_what_a_killed_up_started_leaves_by_itself(start_up: Callable[..., Up]) -> None:
    """A worker without its `up` would go on for ever, unseen; it must stop although nobody reads its log any more."""
    up = start_up().ready()
    children = up.children()
    pool = {str(child.pid): child for child in children["worker"].children(recursive=True)}
    up.end(signal.SIGKILL)
    wait_until(lambda: gone(children | pool), timeout_s=20, what="Redis and the worker to leave")


def test_after_a_kill_the_next_up_just_works(start_up: Callable[..., Up], cli: Cli, stub: dict[str, str]) -> None:
    """No lock file, socket or process that survives a kill -9 may need a person's hand."""
    first = start_up().ready()
    children = first.children()
    children["worker"].suspend()  # it cannot follow the TERM that it gets when its parent dies
    first.end(signal.SIGKILL)
    second = start_up().ready()
    assert gone(children)
    assert "ended a worker of an earlier run" in second.err.read_text()
    assert second.end(signal.SIGTERM) == 0


def test_a_worker_and_a_redis_that_die_are_started_again(start_up: Callable[..., Up]) -> None:
    """One bad picture, or the kernel's out-of-memory killer, must not end the evening's run."""
    up = start_up().ready()
    before = up.children()
    before["redis"].kill()
    before["worker"].kill()

    def both_again() -> Any:
        now = up.children()
        replaced = [kind for kind in now if now[kind].pid != before[kind].pid]
        return sorted(replaced) == ["redis", "worker"] and up.err.read_text().count("worker ready") == 2

    wait_until(both_again, timeout_s=START_S, what="both to be started again")
    assert re.search(r"the worker ended with signal 9(: .*)?; starting it again in [01]\.\d+ s", up.err.read_text())
    (line,) = (up.home / "logs" / "restarts.jsonl").read_text().splitlines()
    assert json.loads(line)["ended"] == "SIGKILL"
    assert up.end(signal.SIGTERM) == 0


def test_a_worker_that_refuses_ends_up_with_its_status_and_reason(start_up: Callable[..., Up], tmp_path: Path) -> None:
    """A wrong setting is not cured by trying again every second."""
    (tmp_path / "no-model").mkdir()
    up = start_up(AUDIT_MODEL=str(tmp_path / "no-model"), AUDIT_ENGINE="ofa")
    assert up.process.wait(timeout=START_S) == 2
    last = up.err.read_text().splitlines()[-1]
    assert last.startswith("caption-audit: the worker left with status 2: ")
    assert "configuration.json is missing" in last


def flower_of(up: Up, port: int) -> FlowerSeen:
    return FlowerSeen(port, user="audit", password=(up.home / "flower-password").read_text().strip())


def test_up_shows_flower_and_says_how_to_sign_in(start_up: Callable[..., Up]) -> None:
    """One command, one page; the password is in a file, and nowhere in the terminal or in the lists of processes."""
    port = free_port()
    up = start_up("--flower", AUDIT_FLOWER_PORT=str(port)).ready()
    line = f"  flower  http://127.0.0.1:{port}/ (user audit, password in {up.home / 'flower-password'})"
    assert line in up.out.read_text().splitlines()
    flower = flower_of(up, port)
    wait_until(flower.listens, timeout_s=START_S, what="Flower to listen")
    assert (flower.ask("/")[0], flower.ask("/", Authorization="")[0]) == (200, 401)
    children = up.children()
    assert sorted(children) == ["flower", "redis", "worker"]
    lines = [" ".join(child.cmdline()) for child in (*children.values(), psutil.Process(up.process.pid))]
    told = [*lines, up.out.read_text(), up.err.read_text(), *(log.read_text() for log in (up.home / "logs").glob("*"))]
    assert not any(flower.password in text for text in told)
    assert up.end(signal.SIGINT) == 0
    assert gone(children)
    assert not flower.listens()


def test_a_flower_that_dies_is_started_again_and_stops_no_judging(start_up: Callable[..., Up]) -> None:
    """It is a window, not a wheel."""
    port = free_port()
    up = start_up("--flower", AUDIT_FLOWER_PORT=str(port)).ready()
    before = up.children()
    wait_until(lambda: flower_of(up, port).listens(), timeout_s=START_S, what="Flower to listen")
    before["flower"].kill()
    what = "Flower to be started again"
    wait_until(
        lambda: up.children().get("flower", before["flower"]).pid != before["flower"].pid, timeout_s=30, what=what
    )
    wait_until(lambda: flower_of(up, port).listens(), timeout_s=START_S, what="Flower to listen again")
    assert "Flower ended with signal 9; starting it again in 1.0 s" in up.err.read_text()
    assert up.children()["worker"].pid == before["worker"].pid
    assert up.end(signal.SIGTERM) == 0


def test_a_taken_port_costs_flower_and_nothing_else(
    start_up: Callable[..., Up], cli: Cli, stub: dict[str, str], tmp_path: Path
) -> None:
    """5555 is a popular number; pairs are judged all the same."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        up = start_up("--flower", AUDIT_FLOWER_PORT=port).ready()
        wait_until(lambda: "Flower cannot listen" in up.err.read_text(), timeout_s=START_S, what="the reason")
        submitted = cli("submit", str(small_manifest(tmp_path, pairs=5)), "--watch", "--json", **stub)
    assert json.loads(submitted.stdout)["state"] == "done"
    told = [line for line in up.err.read_text().splitlines() if "Flower" in line]
    assert len(told) == 1
    assert told[0].startswith(
        f"Flower cannot listen on 127.0.0.1:{port} (Address already in use): set AUDIT_FLOWER_PORT"
    )
    assert told[0].endswith("; judging goes on without it")
    assert up.end(signal.SIGTERM) == 0
