"""Rubbish in Redis's lists, from anybody: the worker goes on, or ends and is started again; nothing of ours is lost."""

import base64
import json
import pickle
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from audit.message import Lane, queue_name
from audit.settings import Settings
from db.queries import progress
from tests.support.manifests import small_manifest
from tests.support.recovery import recovery
from tests.support.redis_server import RedisServer
from tests.support.running import (
    ROOT,
    Worker,
    changed,
    check_promises,
    ledger,
    results,
    submitted,
    told,
    variables,
)
from tests.support.waiting import wait_until


@pytest.fixture
def fragile(sqlite_settings: Settings, own_redis: RedisServer) -> Settings:
    """A Redis of this test's own, and a feed that does not wait long."""
    return changed(
        sqlite_settings,
        redis_url=own_redis.url,
        devices="cpu",
        chunk_pairs=4,
        feed_every_s=0.2,
        resend_s=1.5,
        cache=False,
    )


def body(*arguments: Any) -> str:
    """A task's body as Celery writes it."""
    return base64.b64encode(json.dumps(list(arguments)).encode()).decode()


def wrong(good: dict[str, Any]) -> dict[str, bytes]:
    """What Celery can take for a message, but is none of ours, or is wrong."""
    properties, kwargs = good["properties"], {"batch": 1, "chunk": 0}
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    odd: dict[str, dict[str, Any]] = {
        "another task": {"headers": good["headers"] | {"task": "somebody.elses"}},
        "pickle by name": {"content-type": "application/x-python-serialize"},
        "batch beyond int64": {"body": body([], kwargs | {"batch": 10**30}, embed)},
        "negative batch": {"body": body([], kwargs | {"batch": -1}, embed)},
        "SQL": {"body": body([], kwargs | {"chunk": "0; DROP TABLE pairs"}, embed)},
        "more fields": {"body": body([], kwargs | {"callback": "os.system", "x" * 10_000: 1}, embed)},
        "positional": {"body": body([1, 2, 3], {}, embed)},
        "no such chunk": {"body": body([], {"batch": 999_999, "chunk": 999_999}, embed)},
        "pickle": {"body": base64.b64encode(pickle.dumps([[], kwargs, embed])).decode()},
        "deep": {"body": base64.b64encode(b"[" * 100_000).decode()},
        "huge": {"body": body([], kwargs | {"batch": "9" * 5_000_000}, embed)},
        "limits in words": {"headers": good["headers"] | {"timelimit": ["soon", "never"]}},
        "eta in words": {"headers": good["headers"] | {"eta": "not a time"}},
        "not compressed": {"headers": good["headers"] | {"compression": "application/x-gzip"}},
        "unknown encoding": {"properties": properties | {"body_encoding": "rot13"}},
        "zlib": {"content-encoding": "zlib", "body": base64.b64encode(zlib.compress(b"[]")).decode()},
        "no base64": {"body": "no base64 at all: \u2603"},
        "a number": {"body": base64.b64encode(b"5").decode()},
        "an id that is none": {"headers": good["headers"] | {"id": {"a": []}}},
        "no body": {"body": None},
        "no headers": {"headers": None},
    }
    return {name: json.dumps(good | fields).encode() for name, fields in odd.items()}


UNREADABLE = [
    b"123",
    b"not json",
    b"null",
    b"[]",
    b"{}",
    b'"text"',
    b"\x80\x04\x95pickle",
    b"\xff\xfe",
    b"",
    b"[" * 5000,
]


class Supervised:
    """Starts a worker again whenever it has ended, as `up` and service managers do."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.workers: list[Worker] = []
        self._settings, self._folder = settings, folder

    def runs(self) -> bool:
        """Look after it."""
        if not self.workers or self.workers[-1].process.poll() is not None:
            self.workers.append(Worker(self._settings, log=self._folder / f"worker-{len(self.workers)}.log"))
        return True

    def ready(self) -> None:
        """Until a worker has proved its model."""
        wait_until(lambda: self.runs() and self.workers[-1].events("model proved"), timeout_s=100, what="a worker")


@contextmanager
def supervised(settings: Settings, folder: Path) -> Iterator[Supervised]:
    """Workers, one after the other."""
    up = Supervised(settings, folder)
    try:
        yield up
    finally:
        for worker in up.workers:
            worker.kill()


def survived(settings: Settings, own_redis: RedisServer, folder: Path, pieces: dict[str, bytes]) -> dict[str, int]:
    """Put each piece where a worker takes it next, with work behind it; how many workers ended over each."""
    ended = {}
    queue = queue_name(Lane.BULK, settings.model_name)
    with own_redis.client() as client, ledger(settings) as database, supervised(settings, folder) as up:
        up.ready()
        for number, (name, piece) in enumerate(pieces.items()):
            before = len(up.workers)
            client.rpush(queue, piece)
            batch = submitted(settings, small_manifest(folder / f"manifest-{number}", pairs=8))
            with recovery(28, f"no message of ours: {name}", within_s=30):
                wait_until(
                    lambda: up.runs() and progress(database, batch).finished,  # noqa: B023 - asked within this round
                    timeout_s=100,
                    what=f"the batch behind {name}{up.workers[-1].tail()}",
                )
            up.ready()
            ended[name] = len(up.workers) - before
            assert {row.attempt for row in told(settings, batch).values()} == {1}, name
            assert len(results(settings, batch)) == check_promises(settings, batch).submitted == 8
        wait_until(lambda: up.runs() and not client.llen(queue), timeout_s=60, what="an empty queue")
    return ended


@pytest.mark.long
def test_what_is_no_message_costs_one_restart_at_most(
    fragile: Settings, own_redis: RedisServer, tmp_path: Path
) -> None:
    """Kombu may end the worker over it; the next one must not meet the same piece again.

    Safeguard: Redis has given the piece away before it is read; and the feed sends again what nobody claimed.
    """
    ended = survived(fragile, own_redis, tmp_path, {repr(piece[:12]): piece for piece in UNREADABLE})
    assert max(ended.values()) <= 1, ended


@pytest.mark.long
def test_messages_that_are_none_of_ours_are_survived(fragile: Settings, own_redis: RedisServer, tmp_path: Path) -> None:
    """Whoever can write to Redis can write nonsense there; none of it may stop the work for long, or run.

    Safeguard: audit/message.py decodes strictly, JSON alone is accepted, and lost doorbells ring again.
    """
    batch = submitted(fragile, small_manifest(tmp_path, pairs=4))
    with own_redis.client() as client:
        lists = list(client.scan_iter(f"{queue_name(Lane.BULK, fragile.model_name)}*"))  # one for each priority
        good = json.loads(client.lindex(lists[0], 0))
    ended = survived(fragile, own_redis, tmp_path, wrong(good))
    assert max(ended.values()) <= 1, ended
    assert len(results(fragile, batch)) == 4


@pytest.mark.long
def test_up_starts_the_worker_again_that_rubbish_has_ended(
    fragile: Settings, own_redis: RedisServer, tmp_path: Path
) -> None:
    """On one machine nobody else looks after the worker.

    Safeguard: ops/local.py starts a worker again that has left with an error.
    """
    command = [sys.executable, "-m", "ops.cli", "up", "--no-flower"]
    output = tmp_path / "up.log"
    with output.open("wb") as log:
        up = subprocess.Popen(
            command, cwd=ROOT, env={"PATH": "/usr/bin:/bin", **variables(fragile)}, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: "caption-audit is up" in output.read_text(), timeout_s=100, what="up to be ready")
        with own_redis.client() as client, ledger(fragile) as database:
            client.rpush(queue_name(Lane.BULK, fragile.model_name), b"not json")
            wait_until(
                lambda: "the worker ended with" in output.read_text(), timeout_s=60, what=f"its end{output.read_text()}"
            )
            batch = submitted(fragile, small_manifest(tmp_path, pairs=8))
            with recovery(28, "rubbish ended the worker of `up`", within_s=30):
                wait_until(lambda: progress(database, batch).finished, timeout_s=100, what="the batch")
        up.terminate()
        assert up.wait(timeout=60) == 0
    finally:
        up.kill()
        up.wait()
    assert len(results(fragile, batch)) == check_promises(fragile, batch).submitted == 8
