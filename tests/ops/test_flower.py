"""Flower: asked as a stranger, as somebody with the password, and as somebody who would like to change something."""

import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from audit.settings import Settings
from ops.flower_password import password
from ops.flower_server import forget_offline, make_flower
from tests.ops.conftest import Cli
from tests.support.flower import FlowerSeen, basic, flower_running, received, send_events
from tests.support.manifests import small_manifest
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.running import changed, finished, running, submitted, variables
from tests.support.waiting import wait_until

PAGES = ("/", "/workers", "/tasks", "/broker", "/api/workers", "/api/tasks", "/api/task/types", "/api/queues/length")
MORE = ("/healthcheck", "/static/js/flower.js", "/workers?json=1", "/task/unknown", "/worker/unknown", "/nowhere")
CLOSED = ("/metrics", "/metrics/", "/login", "/login/", "/logout")
CONTROL = (
    "/api/worker/shutdown/w",
    "/api/worker/pool/restart/w",
    "/api/worker/pool/grow/w?n=1",
    "/api/worker/pool/shrink/w?n=1",
    "/api/worker/pool/autoscale/w?min=1&max=2",
    "/api/worker/queue/add-consumer/w?queue=x",
    "/api/worker/queue/cancel-consumer/w?queue=x",
    "/api/task/apply/caption_audit.judge",
    "/api/task/async-apply/caption_audit.judge",
    "/api/task/send-task/caption_audit.judge",
    "/api/task/abort/1",
    "/api/task/timeout/caption_audit.judge?hard=1",
    "/api/task/rate-limit/caption_audit.judge?ratelimit=1",
    "/api/task/revoke/1?terminate=1",
)


@pytest.fixture(scope="module")
def seen(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlowerSeen]:
    """One Flower for the tests that only ask."""
    folder = tmp_path_factory.mktemp("flower")
    with flower_running({"AUDIT_HOME": str(folder / "home"), "REDIS_URL": redis_server.url}, folder) as flower:
        yield flower


@pytest.mark.parametrize("path", [*PAGES, *MORE, *CLOSED])
def test_nobody_sees_anything_without_the_password(seen: FlowerSeen, path: str) -> None:
    """Flower alone leaves /metrics, /healthcheck and its files to everybody."""
    wrong = basic(seen.user, "wrong-password")
    right = basic(seen.user, seen.password).removeprefix("Basic ")
    odd = (wrong, basic("admin", seen.password), basic(seen.user, "pässwörd"), "Basic", "Basic !", f"Bearer {right}")
    for authorization in ("", *odd):
        answer = seen.answer(path, Authorization=authorization)
        assert (answer.status, answer.read()) == (401, b"sign in\n"), authorization
        assert answer.getheader("WWW-Authenticate", "").startswith("Basic ")


@pytest.mark.parametrize("path", PAGES)
def test_with_the_password_every_page_answers(seen: FlowerSeen, path: str) -> None:
    """And every answer carries the headers that keep a message's text from running as a script."""
    answer = seen.answer(path)
    assert answer.status == 200
    assert "script-src 'self' " in answer.getheader("Content-Security-Policy", "")
    assert (answer.getheader("X-Frame-Options"), answer.getheader("Cache-Control")) == ("DENY", "no-store")


@pytest.mark.parametrize("path", CLOSED)
def test_metrics_are_closed_to_all(seen: FlowerSeen, path: str) -> None:
    """The project exports its own; Flower's name every worker and every task."""
    assert seen.ask(path) == (403, "this Flower shows, and changes nothing\n")


@pytest.mark.parametrize("path", CONTROL)
def test_nobody_can_change_anything(seen: FlowerSeen, redis_server: RedisServer, path: str) -> None:
    """Whoever signs in to look must not be able to stop a worker or to make one work."""
    with redis_server.client() as client:
        before = sorted(client.scan_iter())
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            status, _ = seen.ask(path, method=method, body='{"kwargs": {"batch": 1, "chunk": 0}}')
            assert status == 403, method
        assert [key for key in sorted(client.scan_iter()) if b"reply" not in key] == [
            key for key in before if b"reply" not in key
        ]


def test_flower_itself_is_read_only_too(tmp_path: Path) -> None:
    """Two locks: a page that a newer Flower brings is behind the door, and its own check is on."""
    flower = make_flower(Settings.model_validate({"home": tmp_path, "redis_url": "redis://127.0.0.1:1/0"}), "audit:x")
    assert (flower.options.read_only, flower.options.basic_auth) == (True, ["audit:x"])
    assert (flower.options.persistent, flower.options.max_tasks) == (False, 1000)


def test_a_judged_batch_is_shown_as_batch_chunk_and_pairs(sqlite_settings: Settings, tmp_path: Path) -> None:
    """A list of `{'batch': 7, 'chunk': 3}` says little; the message itself stays as it is."""
    settings = changed(sqlite_settings, devices="cpu", feed_every_s=0.1, chunk_pairs=4)
    with flower_running(variables(settings), tmp_path) as flower, running(settings, tmp_path) as worker:
        worker.wait_for("worker ready")
        batch = submitted(settings, small_manifest(tmp_path, pairs=9))
        finished(settings, batch, watch=worker)

        def all_done() -> list[tuple[str, str, str]]:
            tasks = flower.json("/api/tasks").values()
            found = sorted((task["name"], task["kwargs"], task["state"]) for task in tasks)
            return found if [state for *_, state in found] == ["SUCCESS"] * 3 else []

        assert wait_until(all_done, timeout_s=30, what="three tasks") == [
            ("caption_audit.judge", f"batch {batch}, chunk {chunk}, {pairs} pair{'s' * (pairs > 1)}", "SUCCESS")
            for chunk, pairs in ((0, 4), (1, 4), (2, 1))
        ]
        name = f"caption-audit-{worker.process.pid}@{os.uname().nodename}"
        wait_until(lambda: name in flower.json("/api/workers?refresh=1"), timeout_s=30, what="the worker")
        assert flower.ask(f"/worker/{name}")[0] == 200


@pytest.mark.parametrize("tcp", [False, True])
def test_secrets_stand_on_no_page(
    own_redis: RedisServer, sqlite_settings: Settings, tmp_path: Path, *, tcp: bool
) -> None:
    """Flower shows a worker's configuration; Redis's password is part of it."""
    secret = "hush-hush-4711"
    port = free_port()
    with own_redis.client() as client:
        client.config_set("port", port)
        client.config_set("requirepass", secret)
    url = f"redis://:{secret}@127.0.0.1:{port}/0"
    if not tcp:
        url = own_redis.url.replace("redis+socket://", f"redis+socket://:{secret}@")
    settings = changed(sqlite_settings, devices="cpu", redis_url=url)
    environ = variables(settings) | {"AUDIT_FLOWER_PASSWORD": "flower-secret-0815"}
    with flower_running(environ, tmp_path) as flower, running(settings, tmp_path) as worker:
        worker.wait_for("worker ready")
        name = f"caption-audit-{worker.process.pid}@{os.uname().nodename}"
        wait_until(lambda: name in flower.json("/api/workers?refresh=1"), timeout_s=30, what="the worker")
        wait_until(lambda: flower.ask(f"/worker/{name}")[0] == 200, timeout_s=30, what="the worker's page")
        for page in (*PAGES, f"/worker/{name}", "/api/workers?refresh=1"):
            text = flower.ask(page)[1]
            assert secret not in text, page
            assert "flower-secret" not in text, page
        arguments = [" ".join(_command_line(process)) for process in psutil.process_iter()]
        assert not any(secret in line or "flower-secret" in line for line in arguments)
    assert secret not in (tmp_path / "flower.out").read_text()
    assert "flower-secret" not in (tmp_path / "flower.out").read_text()


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def test_it_remembers_the_newest_tasks_and_no_more(redis_url: str, tmp_path: Path) -> None:
    """A night's million chunks must not fill the memory of whoever left Flower open."""
    environ = {"AUDIT_HOME": str(tmp_path / "home"), "REDIS_URL": redis_url, "AUDIT_FLOWER_MAX_TASKS": "20"}
    with flower_running(environ, tmp_path) as flower:

        def hears() -> bool:
            send_events(redis_url, received("first"))
            return "first" in flower.json("/api/tasks")

        wait_until(hears, timeout_s=30, what="Flower to hear")
        send_events(redis_url, *(received(f"task-{n:03}") for n in range(300)))
        wait_until(lambda: "task-299" in flower.json("/api/tasks"), timeout_s=30, what="the last task")
        assert sorted(flower.json("/api/tasks")) == [f"task-{n:03}" for n in range(280, 300)]


def test_it_hears_again_after_redis_was_away(own_redis: RedisServer, tmp_path: Path) -> None:
    """Redis is restarted for an upgrade; nobody should have to think of Flower."""
    with flower_running({"AUDIT_HOME": str(tmp_path / "home"), "REDIS_URL": own_redis.url}, tmp_path) as flower:

        def hears(task: str) -> bool:
            send_events(own_redis.url, received(task))
            return task in flower.json("/api/tasks")

        wait_until(lambda: hears("before"), timeout_s=30, what="Flower to hear")
        own_redis.kill()
        assert flower.ask("/tasks")[0] == 200
        own_redis.start()
        wait_until(lambda: hears("after"), timeout_s=60, what="Flower to hear again")


def test_workers_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    """Every restart of a worker has a new name; Flower by itself keeps counters for each, for ever."""
    flower = make_flower(Settings.model_validate({"home": tmp_path, "redis_url": "redis://127.0.0.1:1/0"}), "audit:x")
    state, now = flower.events.state, time.time()
    for name, age_s in (("old@h", 9000.0), ("new@h", 0.0)):
        at = now - age_s
        same = {"hostname": name, "timestamp": at, "local_received": at, "utcoffset": 0, "pid": 1, "clock": 1}
        state.event({"type": "worker-online", "freq": 2, "sw_ident": "x", "sw_ver": "1", "sw_sys": "y", **same})
        state.event({"type": "worker-heartbeat", "freq": 2, "active": 0, "processed": 0, **same})
    assert sorted(state.counter) == ["new@h", "old@h"]
    forget_offline(flower, kept_s=3600.0)
    assert (sorted(state.counter), sorted(state.workers)) == (["new@h"], ["new@h"])


def test_the_password_is_made_once_and_readable_by_its_owner_alone(redis_url: str, tmp_path: Path) -> None:
    """Whoever starts it twice signs in with the same password."""
    environ = {"AUDIT_HOME": str(tmp_path / "home"), "REDIS_URL": redis_url}
    passwords = []
    for _ in range(2):
        with flower_running(environ, tmp_path) as flower:
            assert flower.ask("/")[0] == 200
            passwords.append(flower.password)
    path = tmp_path / "home" / "flower-password"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(passwords[0]) >= 24
    assert passwords[0] == passwords[1]
    assert [file.name for file in path.parent.iterdir() if "flower" in file.name] == ["flower-password"]
    assert passwords[0] not in (tmp_path / "flower.out").read_text()
    assert str(path) in (tmp_path / "flower.out").read_text()


def test_a_password_file_that_others_can_read_is_closed(tmp_path: Path) -> None:
    """Whoever copied it here may have had another umask."""
    path = tmp_path / "flower-password"
    path.write_text("correct horse battery\n")
    path.chmod(0o644)
    assert password(Settings.model_validate({"home": tmp_path})) == "correct horse battery"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_proxy_may_show_it_under_a_path(redis_url: str, tmp_path: Path) -> None:
    """The door must know the same paths as Flower does."""
    environ = {
        "AUDIT_HOME": str(tmp_path / "home"),
        "REDIS_URL": redis_url,
        "AUDIT_FLOWER_URL_PREFIX": "/audit/flower/",
    }
    with flower_running(environ, tmp_path) as flower:
        status, text = flower.ask("/audit/flower/tasks")
        assert (status, 'src="/audit/flower/static/js/flower.js' in text) == (200, True)
        assert flower.ask("/audit/flower/static/js/flower.js")[0] == 200
        assert flower.ask("/audit/flower/metrics")[0] == 403
        assert flower.ask("/tasks")[0] == 404


def test_a_taken_port_is_one_line_with_the_cure(cli: Cli, redis_url: str) -> None:
    """5555 is a popular number."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = cli("flower", REDIS_URL=redis_url, AUDIT_FLOWER_PORT=str(port))
    assert done.returncode == 2
    assert done.stderr == (
        f"caption-audit: Flower cannot listen on 127.0.0.1:{port} (Address already in use): set AUDIT_FLOWER_PORT to a"
        " free one, or AUDIT_FLOWER_ADDRESS to an address of this host (port_taken)\n"
    )


def test_a_wrong_redis_password_is_refused_at_once(cli: Cli, own_redis: RedisServer) -> None:
    """Flower by itself would try it again for ever, and show empty pages."""
    with own_redis.client() as client:
        client.config_set("requirepass", "right")
    done = cli("flower", REDIS_URL=own_redis.url, AUDIT_FLOWER_PORT=str(free_port()))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("(broker_refused)")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AUDIT_FLOWER_PASSWORD", "short"),
        ("AUDIT_FLOWER_PASSWORD", "with ünïcode"),
        ("AUDIT_FLOWER_USER", "a:b"),
        ("AUDIT_FLOWER_PORT", "0"),
        ("AUDIT_FLOWER_URL_PREFIX", "a?b"),
    ],
)
def test_settings_that_cannot_work_are_named(cli_here: Cli, variable: str, value: str) -> None:
    """A password that a browser sends in another encoding would never be right."""
    done = cli_here("flower", **{variable: value})
    assert done.returncode == 2
    assert done.stderr.startswith(f"caption-audit: {variable}: ")
    assert value not in done.stderr or variable != "AUDIT_FLOWER_PASSWORD"


def test_a_file_that_holds_no_password_is_refused(cli_here: Cli, tmp_path: Path) -> None:
    """An empty password would be one that everybody knows; a link may lead anywhere."""
    path = tmp_path / "home" / "flower-password"
    path.parent.mkdir()
    path.write_text("\n")
    done = cli_here("flower", REDIS_URL="redis://127.0.0.1:1/0")
    assert (done.returncode, "holds no password: remove it" in done.stderr) == (2, True)
    path.unlink()
    path.symlink_to("/etc/hostname")
    assert "cannot be read" in cli_here("flower", REDIS_URL="redis://127.0.0.1:1/0").stderr
    done = cli_here("flower", AUDIT_HOME="/proc/nothing", REDIS_URL="redis://127.0.0.1:1/0")
    assert (done.returncode, "set AUDIT_FLOWER_PASSWORD" in done.stderr) == (2, True)


def test_the_api_says_what_a_script_needs(seen: FlowerSeen, redis_server: RedisServer) -> None:
    """A health check can sign in and ask; it proves more than an open /healthcheck would."""
    assert isinstance(json.loads(seen.ask("/api/workers")[1]), dict)
    assert seen.ask("/healthcheck") == (200, "OK")
