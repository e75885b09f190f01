"""Each depth of health turns red for its own fault and for no other, and green again when the fault is over."""

import signal
import time
from pathlib import Path

import pytest

from audit.settings import Settings
from tests.conftest import make_settings
from tests.support.health_seen import WELL, HealthSeen
from tests.support.manifests import draw, small_manifest, write_csv
from tests.support.ports import free_port
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer
from tests.support.running import changed, check_promises, finished, running, submitted
from tests.support.small_disk import small_disk
from tests.support.waiting import wait_until

OK, FAIL = (200, "OK"), (503, "FAIL")
ALL_WELL = {"health": (200, ""), "simple": OK, "live": OK, "ready": OK}
ALIVE = {"live": 0, "ready": 0, "all": 0}


@pytest.fixture
def watched(sqlite_settings: Settings) -> Settings:
    """Known questions are asked often, and a slot is red after a second without an answer."""
    return quick(sqlite_settings)


def quick(settings: Settings, **fields: object) -> Settings:
    often = {"canary_every_s": 0.2, "canary_within_s": 2.0, "feed_every_s": 0.2, "tell_every_s": 0.5}
    return changed(settings, devices="cpu", http_port=free_port(), **often | fields)


def test_a_hung_child_turns_capability_red_and_is_replaced(watched: Settings, tmp_path: Path) -> None:
    """A process that waits for work and would never take any looks just like one that waits.

    Safeguards: the age of the last right answer; an idle process that owes one is killed (worker/board.py, stuck).
    """
    settings = changed(watched, lease_s=6, pair_limit_s=3)
    health = HealthSeen(settings)
    with running(settings, tmp_path) as worker:
        health.wait(log=worker.log)
        assert (health.http(), health.command()) == (ALL_WELL, ALIVE)
        (child,) = worker.children()
        child.send_signal(signal.SIGSTOP)
        health.wait(capability="unhealthy", log=worker.log)
        assert health.http() == {"health": (503, ""), "simple": FAIL, "live": OK, "ready": FAIL}
        assert health.command() == {"live": 0, "ready": 1, "all": 1}
        worker.wait_for("stuck process killed")
        health.wait(log=worker.log)
        assert worker.children() != [child]
        assert (health.http(), health.command()) == (ALL_WELL, ALIVE)


def test_one_red_slot_of_two_is_degraded(watched: Settings, tmp_path: Path) -> None:
    """Half of the work is done: somebody should look, and nobody should restart the other half."""
    settings = changed(watched, slots_per_device=2)
    health = HealthSeen(settings)
    with running(settings, tmp_path) as worker:
        health.wait(log=worker.log)
        worker.children()[0].send_signal(signal.SIGSTOP)
        health.wait(capability="degraded", log=worker.log)
        assert (health.http(), health.command()) == (ALL_WELL, ALIVE)
        assert health.details()["state"] == "degraded"
        told = health.ask().stdout
        assert "1 of 2 slots ready" in told
        assert "; degraded: slot " in told
        for child in worker.children():
            child.send_signal(signal.SIGSTOP)
        health.wait(capability="unhealthy", log=worker.log)
        for child in worker.children():
            child.send_signal(signal.SIGCONT)
        health.wait(log=worker.log)


def test_a_model_that_loads_for_the_first_time_is_neither_green_nor_red(watched: Settings, tmp_path: Path) -> None:
    """A rollout waits for it; nothing has gone wrong."""
    settings = changed(watched, stub_load_s=8)
    health = HealthSeen(settings)
    with running(settings, tmp_path) as worker:
        health.wait(capability="starting", log=worker.log)
        assert health.http() == {"health": (503, ""), "simple": FAIL, "live": OK, "ready": FAIL}
        assert health.command() == {"live": 0, "ready": 1, "all": 1}
        health.wait(log=worker.log)


def test_a_dead_redis_turns_resources_red_and_nothing_else(
    sqlite_url: str, own_redis: RedisServer, tmp_path: Path, model_directory: Path
) -> None:
    """To restart the worker would help nobody: it must be seen, and be neither dead nor unready.

    Safeguard: Redis is asked now and then also when there is nothing to send.
    """
    made = make_settings(tmp_path, database_url=sqlite_url, redis_url=own_redis.url, model=str(model_directory))
    settings = quick(made)
    health = HealthSeen(settings)
    with running(settings, tmp_path) as worker:
        health.wait(log=worker.log)
        own_redis.kill()
        health.wait(resources="unhealthy", log=worker.log)
        assert health.http() == {"health": (503, ""), "simple": FAIL, "live": OK, "ready": OK}
        assert health.command() == {"live": 0, "ready": 0, "all": 1}
        own_redis.start()
        health.wait(log=worker.log)


@pytest.mark.long
def test_a_redis_that_hangs_turns_resources_red_and_nothing_else(
    sqlite_url: str, own_redis: RedisServer, tmp_path: Path, model_directory: Path
) -> None:
    """Housekeeping waits for it for seconds and tells nothing meanwhile; the slots answer all the same.

    Safeguard: a slot is judged by what was told of it, not by how long ago that was.
    """
    made = make_settings(tmp_path, database_url=sqlite_url, redis_url=own_redis.url, model=str(model_directory))
    settings = quick(made)
    health = HealthSeen(settings)
    with running(settings, tmp_path) as worker:
        health.wait(log=worker.log)
        assert own_redis.process
        own_redis.process.send_signal(signal.SIGSTOP)
        health.wait(resources="unhealthy", log=worker.log)

        def silent() -> bool:
            assert health.depths() == WELL | {"resources": "unhealthy"}
            return bool(health.details()["silent_s"] > settings.canary_within_s)

        wait_until(silent, timeout_s=90, what="the main process to be silent for longer than an answer may be old")
        own_redis.process.send_signal(signal.SIGCONT)
        health.wait(log=worker.log)


def test_a_dead_postgresql_turns_resources_red_and_a_waiting_slot_stays_green(
    own_postgres: PostgresServer, redis_url: str, tmp_path: Path, model_directory: Path
) -> None:
    """A busy process that waits for its ledger can still judge, and says so by answering known questions meanwhile.

    Safeguard: the question between two tries of the ledger (worker/office.py); without it the slot turns red.
    """
    url = own_postgres.url("ledger")
    made = make_settings(tmp_path, database_url=url, redis_url=redis_url, model=str(model_directory))
    settings = quick(made, stub_pair_s=0.05, micro_batch=4, chunk_pairs=100, lease_s=3, pair_limit_s=2)
    health = HealthSeen(settings)
    batch = submitted(settings, small_manifest(tmp_path, pairs=100))
    with running(settings, tmp_path) as worker:
        wait_until(lambda: health.depths() and health.details()["busy"], timeout_s=60, what="a chunk in hand")
        own_postgres.kill()
        health.wait(resources="unhealthy", log=worker.log)
        worker.wait_for("ledger waited for")
        over = time.monotonic() + 3 * settings.canary_within_s
        wait_until(lambda: time.monotonic() > over, timeout_s=60, what="more time than an answer may be old")
        assert health.depths() == WELL | {"resources": "unhealthy"}
        assert health.command() == {"live": 0, "ready": 0, "all": 1}
        own_postgres.start()
        assert worker.events("stuck process killed") == []
        finished(settings, batch, watch=worker)
        health.wait(log=worker.log)
    assert check_promises(settings, batch).judged == 100


def test_a_full_disk_turns_resources_red(
    postgres_url: str, redis_url: str, tmp_path: Path, model_directory: Path
) -> None:
    """The worker runs and could judge, but what it tells of itself, and a SQLite ledger, have no room.

    `ready` says no, as it always has: nobody is to be sent to where nothing can be kept.
    """
    with small_disk(tmp_path / "home", kilobytes=4096) as disk:
        made = make_settings(tmp_path, database_url=postgres_url, redis_url=redis_url, model=str(model_directory))
        settings = quick(made)
        health = HealthSeen(settings)
        with running(settings, tmp_path) as worker:
            health.wait(log=worker.log)
            disk.fill()
            health.wait(resources="unhealthy", log=worker.log)
            assert health.http() == {"health": (503, ""), "simple": FAIL, "live": OK, "ready": FAIL}
            assert health.command() == {"live": 0, "ready": 1, "all": 1}
            disk.make_room()
            health.wait(log=worker.log)


def test_a_model_that_answers_wrongly_turns_capability_red_until_a_fresh_one_is_right(
    watched: Settings, tmp_path: Path
) -> None:
    """It runs, it is heard of, it has all that it needs, and not a word of it is true."""
    wrong = tmp_path / "wrong"
    settings = changed(watched, stub_wrong_file=wrong)
    health = HealthSeen(settings)
    with running(settings, tmp_path) as worker:
        health.wait(log=worker.log)
        wrong.write_text("")
        health.wait(capability="unhealthy", log=worker.log)
        assert (health.command()["live"], health.http()["live"]) == (0, OK)
        assert (health.command()["ready"], health.http()["health"][0]) == (1, 503)
        wrong.unlink()
        health.wait(log=worker.log)
        assert (health.http(), health.command()) == (ALL_WELL, ALIVE)


@pytest.mark.long
def test_a_native_hang_in_the_middle_of_a_chunk_turns_capability_red(watched: Settings, tmp_path: Path) -> None:
    """With the interpreter's lock held no thread of the process can say that it hangs: its silence must."""
    settings = changed(watched, lease_s=8, pair_limit_s=4)
    rows = [("p0", draw(tmp_path / "any.png").name, "stub:hang")]
    health = HealthSeen(settings)
    with running(settings, tmp_path) as worker:
        health.wait(log=worker.log)
        batch = submitted(settings, write_csv(tmp_path / "pairs.csv", rows))

        def red() -> bool:
            reasons = health.details()["depths"]["capability"]["reasons"]
            return any("has answered no known question" in reason for reason in reasons)

        wait_until(red, timeout_s=90, what="silence to be seen")
        finished(settings, batch, watch=worker, timeout_s=180)
        health.wait(log=worker.log)
    assert check_promises(settings, batch).failed == 1
