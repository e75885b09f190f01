"""A Redis that is full, or that has forgotten its last second: the ledger sends again, and no pair is lost."""

from pathlib import Path

import pytest

from audit.message import Lane, queue_name
from audit.settings import Settings
from db.queries import progress
from producer import submit
from tests.support.ledger_sums import UNTROUBLED, chunk_sums
from tests.support.manifests import ordered_manifest, ordered_results
from tests.support.recovery import recovery
from tests.support.redis_lists import waiting_in
from tests.support.redis_server import RedisServer
from tests.support.running import changed, check_promises, finished, ledger, results, running, submitted
from tests.support.waiting import wait_until

TAIL_BYTES = 8192
LOST = "consumer: Connection to broker lost. Trying to re-establish the connection..."
PAIRS = 60


@pytest.fixture
def fragile(sqlite_settings: Settings, own_redis: RedisServer) -> Settings:
    """A Redis of this test's own, and a feed that does not wait long."""
    return changed(
        sqlite_settings,
        redis_url=own_redis.url,
        devices="cpu",
        chunk_pairs=4,
        lease_s=6,
        pair_limit_s=4,
        feed_every_s=0.2,
        resend_s=2,
        stub_pair_s=0.05,
        cache=False,
    )


def test_redis_that_fills_up_under_a_running_worker_delays_and_loses_nothing(
    fragile: Settings, own_redis: RedisServer, tmp_path: Path
) -> None:
    """Somebody else's keys have eaten the memory in the middle of the night's batch; somebody waits for a quick one.

    Every write is refused, acknowledgements too. Safeguard: broker_channel_error_retry in worker/app.py, without which
    the worker ends; a submission commits before it rings; what could not be rung is given back and rung again.
    Celery, which connects anew several times a second meanwhile, does not flood the log (worker/telemetry.py).
    """
    under_way = submitted(fragile, ordered_manifest(tmp_path, pairs=PAIRS, name="first.csv"))
    with running(fragile, tmp_path) as worker, ledger(fragile) as database, own_redis.client() as client:
        wait_until(lambda: progress(database, under_way).judged, timeout_s=60, what="a first commit")
        client.config_set("maxmemory", "1")
        # On the other lane: what the first batch's window holds lies in Redis, and nothing of it is to be rung.
        quick = ordered_manifest(tmp_path, pairs=PAIRS)
        batch = submit(quick, settings=fragile, lane=Lane.INTERACTIVE).batch
        assert progress(database, batch).submitted == PAIRS
        worker.wait_for("housekeeping waits")
        worker.wait_for(LOST)
        # Of what housekeeping does about it each line is one more restart of Celery's consumer.
        worker.wait_for("consumer is deaf, connecting anew", count=3)
        restarts = "Frequent restarts detected: RestartFreqExceeded('5 in 1s')"
        assert len(worker.events(LOST)) + len(worker.events(restarts)) <= 10
        assert worker.process.poll() is None, worker.tail()
        client.config_set("maxmemory", "0")
        with recovery(12, "memory given back", within_s=30):
            for each in (under_way, batch):
                finished(fragile, each, watch=worker)
        assert worker.process.poll() is None, worker.tail()
    for each in (under_way, batch):
        assert chunk_sums(fragile, each) == UNTROUBLED
        assert results(fragile, each) == ordered_results(PAIRS)
        check_promises(fragile, each)


def test_redis_that_loses_its_last_second_loses_no_pair(
    fragile: Settings, own_redis: RedisServer, tmp_path: Path
) -> None:
    """A power cut takes what was not yet on the disk; a kill -9 alone takes nothing and proves nothing.

    Safeguard: a message that nobody claimed, and that does not lie in Redis, is sent again (db/lost.py).
    """
    batch = submitted(fragile, ordered_manifest(tmp_path, pairs=PAIRS))
    queue = queue_name(Lane.BULK, fragile.model_name)
    with own_redis.client() as client:
        sent = len(waiting_in(client, queue))
    own_redis.kill()
    own_redis.forget(TAIL_BYTES)
    own_redis.start()
    with own_redis.client() as client:
        assert len(waiting_in(client, queue)) < sent, "the test has lost no message"
    with recovery(13, "Redis without the last 8 kB of its file", within_s=60), running(fragile, tmp_path) as worker:
        finished(fragile, batch, watch=worker)
    assert chunk_sums(fragile, batch) == UNTROUBLED
    assert results(fragile, batch) == ordered_results(PAIRS)
    check_promises(fragile, batch)
