"""Ringing at a real Redis, and at things that are none."""

import base64
import json
import subprocess
import sys
import time

import pytest

from audit.errors import BrokerRefused, BrokerUnavailable, UsageError
from audit.message import TASK_NAME, ChunkMessage, Lane, decode, queue_name, rank_in
from audit.pair import BatchId, ChunkNumber
from db.feed import Doorbell
from producer.enqueue import Bell
from tests.support.processes import ROOT
from tests.support.redis_lists import waiting_in
from tests.support.redis_server import RedisServer


def bells(count: int, lane: Lane = Lane.BULK) -> list[Doorbell]:
    rank, batch = rank_in(lane, ahead=False), BatchId(7)
    numbers = map(ChunkNumber, range(count))
    return [Doorbell(batch=batch, chunk=n, pairs=9, lane=lane, model="demo", rank=rank) for n in numbers]


def reason(broker_url: str) -> str:
    with pytest.raises(BrokerUnavailable) as caught:
        Bell(broker_url).ring(bells(2))
    assert caught.value.exit_status == 75
    assert "\n" not in caught.value.detail
    return caught.value.detail


def test_a_message_is_what_the_worker_reads(redis_server: RedisServer, redis_url: str) -> None:
    """Producer and worker share no code but the contract: this is the producer's half of it."""
    bell = Bell(redis_url)
    bell.ring(bells(2))
    bell.ring(bells(1, Lane.INTERACTIVE))
    bell.ring([])
    with redis_server.client() as client:
        assert len(waiting_in(client, queue_name(Lane.INTERACTIVE, "demo"))) == 1
        sent = [json.loads(raw) for raw in waiting_in(client, queue_name(Lane.BULK, "demo"))]
    assert {message["headers"]["task"] for message in sent} == {TASK_NAME}
    assert {message["content-type"] for message in sent} == {"application/json"}
    bodies = [json.loads(base64.b64decode(message["body"])) for message in reversed(sent)]
    assert [args for args, _, _ in bodies] == [[], []]
    expected = [ChunkMessage(batch=BatchId(7), chunk=ChunkNumber(n)) for n in (0, 1)]
    assert [decode(kwargs) for _, kwargs, _ in bodies] == expected


def test_a_redis_that_is_away_is_said_so_at_once(own_redis: RedisServer) -> None:
    """The batch is safe in the ledger: nobody should wait for a broker."""
    own_redis.kill()
    started = time.monotonic()
    assert "Redis does not take messages: Error" in reason(own_redis.url)
    assert "Redis does not take messages: Error" in reason("redis://127.0.0.1:1/0")
    assert time.monotonic() - started < 3


def test_a_redis_that_never_answers_costs_seconds_not_minutes(silent_port: int) -> None:
    """A half-open connection is not an error to TCP: without a time limit the command would hang."""
    started = time.monotonic()
    assert "Timeout" in reason(f"redis://127.0.0.1:{silent_port}/0")
    assert time.monotonic() - started < 6


def test_a_full_redis_is_a_reason_too(own_redis: RedisServer) -> None:
    """It looks like a working connection until the first push."""
    with own_redis.client() as client:
        client.config_set("maxmemory", "1")
        assert "maxmemory" in reason(own_redis.url)


def with_login(url: str, login: str) -> str:
    return url.replace("://", f"://{login}@")


def test_a_wrong_password_is_refused_and_not_shown(own_redis: RedisServer) -> None:
    """No waiting cures it: the operator is told what to mend, and a secret stays out of the message."""
    with own_redis.client() as client:
        client.config_set("requirepass", "secret-1")
    logins = {own_redis.url: "Redis wants a password", with_login(own_redis.url, ":guess-1"): "refuses the password"}
    for url, words in logins.items():
        with pytest.raises(BrokerRefused, match=words) as caught:
            Bell(url).weaknesses()
        assert caught.value.exit_status == 2
        assert "guess-1" not in caught.value.detail


def test_a_password_that_redis_does_not_have_is_refused(redis_url: str) -> None:
    """Somebody believes that this Redis is guarded, and it is not."""
    with pytest.raises(BrokerRefused, match="this Redis has none"):
        Bell(with_login(redis_url, ":guess")).weaknesses()


def test_a_good_redis_has_no_weakness(redis_url: str) -> None:
    """A warning at every submit would teach people not to read warnings."""
    assert Bell(redis_url).weaknesses() == []


def test_what_an_operator_should_change_is_said_with_its_cure(own_redis: RedisServer) -> None:
    """Without an append-only file a restart forgets; with eviction a full Redis does."""
    with own_redis.client() as client:
        client.config_set("maxmemory-policy", "volatile-lru")  # queues never expire: it evicts nothing of ours
        assert Bell(own_redis.url).weaknesses() == []
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "no")
        evicting, forgetting = Bell(own_redis.url).weaknesses()
    assert "maxmemory-policy noeviction" in evicting
    assert "appendonly yes" in forgetting


def test_a_redis_user_that_may_not_look_is_no_error(own_redis: RedisServer) -> None:
    """Least privilege is a virtue: who may only push and pop can work."""
    with own_redis.client() as client:
        client.config_set("appendonly", "no")
        client.execute_command("ACL", "SETUSER", "pusher", "on", ">pw", "~*", "+@all", "-@dangerous")
    bell = Bell(with_login(own_redis.url, "pusher:pw"))
    assert bell.weaknesses() == []
    bell.ring(bells(1))


@pytest.mark.parametrize("url", ["", "foo://x", "redis://:pa/ss@127.0.0.1:x/0", "amqp://h", "127.0.0.1:6379"])
def test_what_is_no_url_of_a_redis_is_refused_without_showing_it(url: str) -> None:
    """A URL holds a password, and a mistyped one may hold it anywhere."""
    with pytest.raises(UsageError, match="REDIS_URL must be redis://") as caught:
        Bell(url)
    assert url == "" or url not in caught.value.detail
    assert caught.value.exit_status == 2


def test_importing_the_producer_imports_no_celery() -> None:
    """`caption-audit --help` answers in 0.3 s; Celery alone takes most of that."""
    code = "import sys, producer; print(sorted({'celery', 'kombu', 'alembic', 'torch'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
