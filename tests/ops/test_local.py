"""The parts of `up`, each by itself: the home's lock, a Redis of our own, the log that a person sees."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from audit.errors import Permanent, Unavailable, UsageError
from ops.children import Child
from ops.home_lock import only_one
from ops.local_redis import LocalRedis, answers
from ops.worker_process import human
from tests.conftest import make_settings


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalRedis]:
    """Not started."""
    server = LocalRedis(make_settings(tmp_path))
    yield server
    server.stop()


def test_what_redis_held_is_there_again_after_a_stop_and_after_a_kill(local: LocalRedis) -> None:
    """The queue survives a restart; and a server that was killed leaves a socket file that is in nobody's way."""
    local.start()
    push(local)
    local.stop()
    killed = local.start()
    push(local)
    killed.kill()
    killed.wait()
    assert local.socket.exists()
    local.start()
    with redis.Redis(unix_socket_path=str(local.socket)) as client:
        assert client.llen("queue") == 2
        config = client.config_get("*")
    assert (config["appendonly"], config["maxmemory-policy"], config["port"]) == ("yes", "noeviction", "0")
    assert local.socket.stat().st_mode & 0o077 == 0
    assert local.socket.parent.stat().st_mode & 0o077 == 0
    assert local.log.parent.stat().st_mode & 0o077 == 0, "logs that others are not to read"


def push(server: LocalRedis) -> None:
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        client.rpush("queue", "message")


def test_an_orphan_redis_on_the_socket_is_shut_down_first(local: LocalRedis, tmp_path: Path) -> None:
    """Two servers on one append-only file would destroy it."""
    orphan = local.start()
    with redis.Redis(unix_socket_path=str(local.socket)) as client:
        client.set("kept", "yes")
    again = LocalRedis(make_settings(tmp_path))
    again.start()
    assert orphan.wait(timeout=10) == 0
    with redis.Redis(unix_socket_path=str(again.socket)) as client:
        assert client.get("kept") == b"yes"
    again.stop()
    assert not answers(again.socket)


def test_a_redis_that_cannot_start_says_why(local: LocalRedis) -> None:
    """The last line of its log is worth more than `it did not start`."""
    (local.folder / "appendonly.aof").parent.mkdir(parents=True)
    (local.folder / "appendonly.aof").write_bytes(b"this is no append-only file")
    with pytest.raises(Unavailable, match=r"redis-server left with status 1: .*(AOF|append)"):
        local.start()


def test_a_socket_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """In /tmp anybody can make the folder first, and read what goes through its socket."""
    target = tmp_path / "theirs"
    target.mkdir()
    server = LocalRedis(make_settings(tmp_path))
    server.socket = tmp_path / "link" / "redis.sock"
    server.socket.parent.symlink_to(target)
    with pytest.raises(Permanent, match="unsafe_folder"):
        server.start()


def test_a_home_too_deep_for_a_socket_gets_a_private_one_in_tmp(tmp_path: Path) -> None:
    """A Unix socket's path is limited to 108 bytes; somebody's home folder is not."""
    server = LocalRedis(make_settings(tmp_path / ("deep" * 30)))
    server.start()
    assert server.socket.is_socket()
    assert str(server.socket).startswith(f"/tmp/caption-audit-{os.getuid()}-")
    assert server.socket.parent.stat().st_mode & 0o777 == 0o700
    server.stop()
    server.socket.parent.rmdir()


def test_a_lock_file_of_any_content_is_taken_over(tmp_path: Path) -> None:
    """The kernel's lock counts, not what a killed process had written."""
    for content in ("", "{", "[]", '{"pid": 1, "children": [{"no": "child"}]}', "null"):
        (tmp_path / "up.lock").write_text(content)
        with only_one(tmp_path, "up") as lock:
            assert lock.leftovers == []


def test_the_lock_names_its_holder_and_its_children(tmp_path: Path) -> None:
    """A refusal that does not say who is in the way sends people to `ps`."""
    child = Child(kind="worker", pid=1, started=5)
    with only_one(tmp_path, "demo") as lock:
        lock.add(child)
        holder = rf"in use by process {os.getpid()} \(`caption-audit demo`, since "
        with pytest.raises(Permanent, match=holder), only_one(tmp_path, "up"):
            pass
    with only_one(tmp_path, "up") as lock:
        assert lock.leftovers == [child]


def test_children_do_not_inherit_the_lock(tmp_path: Path) -> None:
    """A worker that outlives a killed `up` must not keep the next one out."""
    with only_one(tmp_path, "up"):
        process = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with only_one(tmp_path, "up"):
            pass
    finally:
        process.kill()
        process.wait()


def test_a_person_sees_what_matters_and_in_one_line() -> None:
    """The log file has everything; the terminal has warnings, errors and readiness."""
    assert human('{"event": "chunk ended", "level": "info"}') is None
    assert human("worker: Warm shutdown (MainProcess)") is None
    shown = human('{"event": "claim taken over", "level": "warning", "pid": 7, "why": "a\\nb\\u001b[2J"}')
    assert shown is not None
    assert shown[9:] == "claim taken over pid=7 why=a b\\x1b[2J"


def test_a_person_sees_what_matters_of_text_lines_too() -> None:
    """AUDIT_LOG_FORMAT=text under `up` must not make its terminal silent."""
    begin = "[2026-06-15 14:23:01,205]"
    assert human(f"{begin} [INFO] [queue] chunk ended batch=7") is None
    assert human("    | ValueError: [ERROR]") is None
    seen = [
        human(f"{begin} [{text}") for text in ("WARNING] [queue] claim taken over pid=7", "INFO] [queue] worker ready")
    ]
    assert [line and line[9:] for line in seen] == ["claim taken over pid=7", "worker ready"]


def test_last_words_are_shown_once() -> None:
    """The reason of a worker's end stays on the screen anyway."""
    assert human('{"event": "worker cannot serve", "level": "critical", "reason": "no model"}') is None
    assert human("[2026-06-15 14:23:01,205] [CRITICAL] [queue] worker cannot serve reason=x") is None


def test_a_home_that_cannot_be_written_is_said_with_the_cure(tmp_path: Path) -> None:
    """A file of that name, a read-only mount: the operator's to mend, so exit status 2."""
    (tmp_path / "home").write_text("")
    with pytest.raises(UsageError, match=r"home: .*; set AUDIT_HOME"), only_one(tmp_path / "home", "up"):
        pytest.fail("it was taken for a folder")
