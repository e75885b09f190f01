"""`caption-audit queue` and `workers`: what a person looks at when nothing moves, and what a script reads."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.holder import this_process
from audit.message import Lane, queue_name
from audit.settings import Settings
from db.engine import Database
from db.workers import SlotState, SlotTold, tell
from tests.ops.conftest import COMMAND, Cli, bare
from tests.support.ledger_rows import add_batch, add_chunk
from tests.support.manifests import draw, write_csv
from tests.support.redis_server import RedisServer
from tests.support.running import changed, running, submitted, variables
from tests.support.waiting import wait_until

Asking = Callable[..., "subprocess.CompletedProcess[str]"]
IDLE = SlotTold(slot=0, device="cpu", model="demo", state=SlotState.IDLE, child_pid=11, canary="passed")


def told(database: Database, *slots: SlotTold, worker: str = "w@here") -> None:
    tell(database, this_process(), worker, slots, up_s=60.0)


def test_an_empty_queue_is_said_to_be_one(cli: Cli, ledger: Database, redis_url: str) -> None:
    """Silence would leave one wondering whether the command looked in the right place."""
    done = cli("queue", REDIS_URL=redis_url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the queue is empty\n", "")
    as_json = cli("queue", "--json", REDIS_URL=redis_url)
    assert json.loads(as_json.stdout) == {"redis": {"answers": True, "error": None}, "lanes": [], "advice": []}


def test_the_queue_is_told_to_scripts(cli: Cli, ledger: Database, redis_url: str, redis_server: RedisServer) -> None:
    """Both halves side by side, whoever's tenants they are; names are a promise."""
    now = time.time()
    for tenant, state in (("a", "pending"), ("a", "sent"), ("b", "running"), ("b", "parked")):
        add_chunk(ledger, add_batch(ledger, tenant=tenant, opened_at=now - 100), 0, state)
    told(ledger, IDLE)
    with redis_server.client() as client:
        client.rpush(queue_name(Lane.BULK, "demo"), "one", "two")
        client.hset("unacked", "tag", json.dumps([{}, "", queue_name(Lane.BULK, "demo")]))
        client.hset("unacked", "rubbish", "not json")
        client.hset("unacked", "odd", "[1, 2, 3]")
    done = cli("queue", "--json", REDIS_URL=redis_url)
    assert (done.returncode, done.stderr) == (0, "")
    value = json.loads(done.stdout)
    age = value["lanes"][0]["oldest_waiting_s"]
    assert 90 < age < 300
    counts = {"pending": 1, "sent": 1, "running": 0, "parked": 0, "pairs_left": 20, "oldest_waiting_s": age}
    assert value | {"advice": [bare(line) for line in value["advice"]]} == {
        "redis": {"answers": True, "error": None},
        "lanes": [
            {
                "model": "demo",
                "lane": "bulk",
                "in_redis": 2,
                "taken": 1,
                "pending": 1,
                "sent": 1,
                "running": 1,
                "parked": 1,
                "pairs_left": 40,
                "oldest_waiting_s": age,
                "tenants": [
                    {"tenant": "a", **counts},
                    {"tenant": "b", "pending": 0, "sent": 0, "running": 1, "parked": 1, "pairs_left": 20}
                    | {"oldest_waiting_s": None},
                ],
            }
        ],
        "advice": ["1 parked: see the worker's log, mend the cause, then: caption-audit sweep --parked"],
    }


def test_waiting_work_without_a_worker_is_told_with_the_cure(cli: Cli, ledger: Database, redis_url: str) -> None:
    """The commonest reason why nothing moves: the worker holds another model, or there is none."""
    add_chunk(ledger, add_batch(ledger, model="iic/other", opened_at=time.time()), 0, "pending")
    told(ledger, IDLE)
    done = cli("queue", REDIS_URL=redis_url)
    assert done.returncode == 0
    last = done.stdout.splitlines()[-1]
    assert last.startswith("1 chunk waits, but no worker holds the model iic/other: start one (")
    assert last.endswith(" up)")
    assert " AUDIT_MODEL=iic/other " in last


def test_without_redis_the_ledgers_part_is_shown(cli: Cli, ledger: Database) -> None:
    """When Redis is away is when one wants to see that nothing is lost."""
    add_chunk(ledger, add_batch(ledger, opened_at=time.time()), 0, "sent")
    done = cli("queue", REDIS_URL="redis://:secret@127.0.0.1:1/0")
    assert done.returncode == 69
    assert " demo    bulk " in done.stdout
    assert "Redis does not take messages" in done.stdout
    value = json.loads(cli("queue", "--json", REDIS_URL="redis://:secret@127.0.0.1:1/0").stdout)
    assert (value["redis"]["answers"], value["lanes"][0]["sent"], value["lanes"][0]["in_redis"]) == (False, 1, None)
    assert "secret" not in done.stdout + done.stderr + json.dumps(value)


def test_names_from_the_ledger_do_not_reach_the_terminal_raw(cli: Cli, ledger: Database, redis_url: str) -> None:
    """A tenant's name is anybody's text."""
    batch = add_batch(ledger, tenant="a\x1b[31m\u202e[bold]", model="m\x1b]0;x\x07", opened_at=time.time())
    add_chunk(ledger, batch, 0, "pending")
    done = cli("queue", REDIS_URL=redis_url)
    assert "\x1b" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "a\\x1b[31m\\u202e[bold] 10" in done.stdout


def test_nobody_at_work_is_told_with_the_cure(cli: Cli, ledger: Database) -> None:
    """Exit status 1, so that a script can wait for a worker."""
    done = cli("workers")
    assert done.returncode == 1
    assert bare(done.stdout).startswith("no worker has told of itself lately: start one with `caption-audit up`")
    assert json.loads(cli("workers", "--json").stdout) == []


def test_a_worker_that_is_not_heard_of_is_gone(cli: Cli, ledger: Database) -> None:
    """A dead worker's last words must not read as if it lived."""
    told(ledger, IDLE)
    assert cli("workers").returncode == 0
    ledger.transact(lambda connection: connection.exec_driver_sql("UPDATE workers SET seen_at = seen_at - 60"))
    done = cli("workers", "--json")
    assert done.returncode == 1
    assert [(slot["worker"], slot["state"]) for slot in json.loads(done.stdout)] == [("w@here", "gone")]


def test_a_canary_that_fails_is_told(cli: Cli, ledger: Database) -> None:
    """A slot that loads for ever says why."""
    told(ledger, SlotTold(slot=1, device="cuda:0", model="demo", state=SlotState.AWAY, canary="failed: out of memory"))
    assert "slot 1 of w@here: the canary failed: out of memory" in cli("workers").stdout


@pytest.fixture
def slow(settings: Settings, tmp_path: Path) -> tuple[Settings, Path]:
    """A worker with one slot, and a manifest that keeps it busy."""
    quick = changed(settings, devices="cpu", feed_every_s=0.1, tell_every_s=0.1, chunk_pairs=5, resend_s=60)
    draw(tmp_path / "red.png")
    rows = [(f"p{n}", "red.png", f"stub:sleep=0.3 stub:yes {n}") for n in range(40)]
    return quick, write_csv(tmp_path / "slow.csv", rows)


def test_a_running_batch_is_seen_in_both(slow: tuple[Settings, Path], cli: Cli, tmp_path: Path) -> None:
    """Real Redis, real worker: what the commands say is what is so."""
    settings, manifest = slow
    environ = variables(settings)
    with running(settings, tmp_path) as worker:
        worker.wait_for("model proved")
        batch = submitted(settings, manifest)

        def both() -> Any:
            queue = json.loads(cli("queue", "--json", **environ).stdout)
            slots = json.loads(cli("workers", "--json", **environ).stdout)
            busy = slots and slots[0]["state"] == "judging" and queue["lanes"] and queue["lanes"][0]["taken"]
            return (queue, slots) if busy else None

        queue, slots = wait_until(both, timeout_s=60, what="a chunk in hand")
        lane = queue["lanes"][0]
        assert (lane["lane"], lane["model"], queue["advice"]) == ("bulk", settings.model_name, [])
        assert lane["running"] >= 1
        assert 0 < lane["pairs_left"] <= 40
        assert (slots[0]["batch"], slots[0]["canary"], slots[0]["pid"]) == (batch, "passed", worker.process.pid)
        people = cli("workers", **environ)
        assert people.returncode == 0
        assert f" {worker.process.pid} " in people.stdout


def test_watching_goes_on_until_ctrl_c(environment: dict[str, str], ledger: Database, redis_url: str) -> None:
    """A value a line, so that a script can follow; and Ctrl-C ends it without a traceback."""
    command = [*COMMAND, "queue", "--json", "--watch"]
    environ = {**os.environ, **environment, "REDIS_URL": redis_url}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        lines = [json.loads(watching.stdout.readline()) for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=30) == 130
        assert watching.stderr.read() == ""
    assert [line["lanes"] for line in lines] == [[], []]
