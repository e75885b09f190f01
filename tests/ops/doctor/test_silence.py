"""Services that take a connection and say nothing: a firewall, a proxy, a process that is stopped."""

import json
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from tests.ops.conftest import Cli
from tests.support.redis_server import RedisServer


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Connections are made by the kernel, and nobody ever takes them."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        yield listening.getsockname()[1]


def test_silence_is_told_in_time_and_hides_nothing(cli: Cli, silent_port: int) -> None:
    """Whoever waits for a doctor for minutes interrupts it, and knows nothing."""
    began = time.monotonic()
    asked = cli(
        "doctor",
        *("--only", "redis", "--only", "sql", "--only", "clock", "--only", "network", "--json", "--limit", "20"),
        REDIS_URL=f"redis://127.0.0.1:{silent_port}/0",
        DATABASE_URL=f"postgresql://me@127.0.0.1:{silent_port}/ledger",
        AUDIT_FLOWER_PORT=str(silent_port),
    )
    assert time.monotonic() - began < 90
    states = {(check["topic"], check["name"]): check["state"] for check in json.loads(asked.stdout)["checks"]}
    assert states["redis", "reachable"] == states["sql", "reachable"] == "wrong"
    assert states["network", "port of Flower"] == "wrong"
    assert states["network", "proxy"] in ("ok", "warning")


def test_a_redis_that_is_stopped_is_wrong(cli: Cli, own_redis: RedisServer) -> None:
    """Its socket takes connections all the same."""
    assert own_redis.process is not None
    own_redis.process.send_signal(signal.SIGSTOP)
    try:
        asked = cli("doctor", "--only", "redis", "--limit", "2", REDIS_URL=own_redis.url)
    finally:
        own_redis.process.send_signal(signal.SIGCONT)
    assert asked.returncode == 1
    assert "  wrong    reachable: " in asked.stdout
