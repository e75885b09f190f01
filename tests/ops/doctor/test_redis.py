"""What the doctor says of real Redis servers that are set up badly, full, closed or away."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.settings import Settings
from ops.doctor.lines import Line, State
from ops.doctor.redis import password_lines, redis_lines
from tests.conftest import make_settings
from tests.ops.doctor.conftest import LIMIT_S, Named
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer


def lines(tmp_path: Path, url: str | None) -> Iterator[Line]:
    return redis_lines(make_settings(tmp_path, redis_url=url), limit_s=LIMIT_S)


def test_a_redis_as_it_should_be_is_ok(tmp_path: Path, own_redis: RedisServer) -> None:
    """A check that finds fault with everything is not read."""
    told = list(lines(tmp_path, own_redis.url))
    assert [line.name for line in told] == ["reachable", "version", "persistence", "eviction", "role", "memory"]
    assert {line.state for line in told} == {State.OK}


@pytest.mark.parametrize(
    ("change", "name", "state"),
    [
        (("appendonly", "no"), "persistence", State.WARNING),
        (("maxmemory-policy", "allkeys-lru"), "eviction", State.WRONG),
        (("maxmemory-policy", "volatile-lru"), "eviction", State.OK),
        (("maxmemory", "1"), "memory", State.WRONG),
        (("maxmemory", "1gb"), "memory", State.OK),
    ],
)
def test_what_would_lose_or_refuse_messages_is_told(  # noqa: PLR0917 - pytest hands them over by name
    tmp_path: Path, own_redis: RedisServer, named: Named, change: tuple[str, str], name: str, state: State
) -> None:
    """A restart that forgets, a full server that drops, and one that takes nothing more."""
    with own_redis.client() as client:
        client.config_set(*change)
    assert named(lines(tmp_path, own_redis.url), name).state is state


def test_a_redis_that_is_almost_full_is_a_warning(tmp_path: Path, own_redis: RedisServer, named: Named) -> None:
    """Before it is full there is time to do something."""
    with own_redis.client() as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.15))
    assert named(lines(tmp_path, own_redis.url), "memory").state is State.WARNING


def test_a_replica_takes_no_messages(tmp_path: Path, own_redis: RedisServer, named: Named) -> None:
    """It answers, and refuses every message."""
    with own_redis.client() as client:
        client.replicaof("127.0.0.1", str(free_port()))
    assert named(lines(tmp_path, own_redis.url), "role").state is State.WRONG


def test_a_password_that_is_missing_or_wrong_is_told_and_not_shown(
    tmp_path: Path, own_redis: RedisServer, named: Named
) -> None:
    """Celery would try a wrong one for ever."""
    with own_redis.client() as client:
        client.config_set("requirepass", "secret-1")
    for login in ("", ":guess-1@"):
        line = named(lines(tmp_path, own_redis.url.replace("://", f"://{login}")), "reachable")
        assert (line.state, "password" in line.cure) == (State.WRONG, True)
        assert "guess" not in repr(line)
    told = list(lines(tmp_path, own_redis.url.replace("://", "://:secret-1@")))
    assert {line.state for line in told} == {State.OK}
    assert "secret-1" not in repr(told)


def test_whoever_may_not_ask_is_told_so(tmp_path: Path, own_redis: RedisServer, named: Named) -> None:
    """Managed servers forbid INFO now and then; that is no reason to say that all is well."""
    with own_redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-info")
    assert named(lines(tmp_path, own_redis.url), "INFO").state is State.WARNING


def test_a_redis_that_is_away_is_wrong(tmp_path: Path, own_redis: RedisServer, named: Named) -> None:
    """Nothing is judged until it answers."""
    own_redis.kill()
    line = named(lines(tmp_path, own_redis.url), "reachable")
    assert (line.state, str(own_redis.socket) in line.found) == (State.WRONG, True)
    tcp = named(lines(tmp_path, f"redis://127.0.0.1:{free_port()}/0"), "reachable")
    assert tcp.state is State.WRONG


def test_the_redis_of_our_own_may_be_down(tmp_path: Path, named: Named) -> None:
    """It runs as long as `up` does: no fault, but nothing is judged either."""
    assert named(lines(tmp_path, None), "reachable").state is State.WARNING


def test_a_redis_that_others_reach_has_apassword_lines(tmp_path: Path, named: Named) -> None:
    """Anybody could write messages; nobody answers at this address of documentation (RFC 5737)."""
    open_to_all = Settings.model_validate({"home": tmp_path, "redis_url": "redis://192.0.2.1/0"})
    assert named(password_lines(open_to_all), "password").state is State.WARNING
    guarded = Settings.model_validate({"home": tmp_path, "redis_url": "redis://:secret-1@192.0.2.1/0"})
    assert named(password_lines(guarded), "password").state is State.OK
    at_home = Settings.model_validate({"home": tmp_path, "redis_url": "redis://127.0.0.1/0"})
    assert list(password_lines(at_home)) == []
