"""Rubbish in Redis's lists, from anybody: the worker goes on, or ends and is started again; nothing of ours is lost."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit.message import Lane, queue_name
from audit.settings import Settings
from db.queries import progress
from tests.support.manifests import small_manifest
from tests.support.recovery import recovery
from tests.support.redis_server import RedisServer
from tests.support.running import (
    Worker,
    changed,
    check_promises,
    ledger,
    results,
    submitted,
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

    def __init__(self, settings: Settings, folder: Path, *, most: int) -> None:
        self.workers: list[Worker] = []
        self._settings, self._folder, self._most = settings, folder, most

    def runs(self) -> bool:
        """Look after it."""
        if not self.workers or self.workers[-1].process.poll() is not None:
            assert len(self.workers) < self._most, self.workers[-1].tail()
            self.workers.append(Worker(self._settings, log=self._folder / f"worker-{len(self.workers)}.log"))
        return True


@contextmanager
def supervised(settings: Settings, folder: Path, *, most: int) -> Iterator[Supervised]:
    """At most so many workers, one after the other."""
    up = Supervised(settings, folder, most=most)
    try:
        yield up
    finally:
        for worker in up.workers:
            worker.kill()


@pytest.mark.long
@pytest.mark.parametrize("piece", UNREADABLE, ids=lambda piece: repr(piece[:12]))
def test_what_is_no_message_costs_one_restart_at_most(
    fragile: Settings, own_redis: RedisServer, tmp_path: Path, piece: bytes
) -> None:
    """Kombu may end the worker over it; the next one must not meet the same piece again.

    Safeguard: Redis has given the piece away before it is read; and the feed sends again what nobody claimed.
    """
    batch = submitted(fragile, small_manifest(tmp_path, pairs=8))
    with own_redis.client() as client:
        client.rpush(queue_name(Lane.BULK, fragile.model_name), piece)
    told_so = recovery(28, "one piece that is no message", within_s=30)
    with ledger(fragile) as database, supervised(fragile, tmp_path, most=2) as up, told_so:
        wait_until(lambda: up.runs() and progress(database, batch).finished, timeout_s=100, what="the batch")
    assert len(results(fragile, batch)) == check_promises(fragile, batch).submitted == 8
