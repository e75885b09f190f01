"""Networks that are slow, or that swallow what is sent without a word: work goes on, and nobody is taken for dead."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.settings import Settings
from db.queries import progress
from tests.conftest import make_settings
from tests.support.ledger_sums import UNTROUBLED, chunk_sums
from tests.support.manifests import ordered_manifest, ordered_results
from tests.support.postgres_server import PostgresServer
from tests.support.recovery import recovery
from tests.support.redis_server import RedisServer
from tests.support.running import changed, check_promises, finished, ledger, results, running, submitted, told
from tests.support.tcp_proxy import TcpProxy, proxy_to
from tests.support.waiting import wait_until

SLOW_EACH_WAY_S = 0.1
LONG_CHUNK = 48
"""Pairs of half a second: a chunk that takes one and a half leases."""


@pytest.fixture
def to_redis(own_redis: RedisServer) -> Iterator[TcpProxy]:
    """The way to this test's Redis."""
    with proxy_to(own_redis.socket) as proxy:
        yield proxy


@pytest.fixture
def to_ledger(own_postgres: PostgresServer) -> Iterator[TcpProxy]:
    """The way to this test's PostgreSQL."""
    with proxy_to(("127.0.0.1", own_postgres.port)) as proxy:
        yield proxy


@pytest.fixture
def near(own_postgres: PostgresServer, own_redis: RedisServer, model_directory: Path, tmp_path: Path) -> Settings:
    """For the test itself, whose own way to both servers is good."""
    return make_settings(
        tmp_path,
        database_url=own_postgres.url("ledger"),
        redis_url=own_redis.url,
        model=str(model_directory),
        devices="cpu",
        cache=False,
        chunk_pairs=4,
        lease_s=15,
        pair_limit_s=5,
        feed_every_s=0.5,
        resend_s=5,
        stub_pair_s=0.05,
    )


@pytest.fixture
def far(near: Settings, own_postgres: PostgresServer, to_redis: TcpProxy, to_ledger: TcpProxy) -> Settings:
    """For the worker, which goes through both proxies."""
    database = own_postgres.url("ledger").replace(f":{own_postgres.port}/", f":{to_ledger.port}/")
    return changed(near, database_url=database, redis_url=f"redis://127.0.0.1:{to_redis.port}/0")


@pytest.mark.long
def test_a_slow_network_slows_work_down_and_kills_nobody(
    near: Settings, far: Settings, to_redis: TcpProxy, to_ledger: TcpProxy, tmp_path: Path
) -> None:
    """A region far away is slow, not dead: one chunk that takes longer than its lease, told of in slow round trips.

    Safeguard: a pool process gives its ledger seconds for an answer, not moments (silent_s in worker/child.py). Renewal
    is not shown here: housekeeping whose rounds take half a lease trusts no lease, and this one's may.
    """
    long = {"chunk_pairs": LONG_CHUNK, "stub_pair_s": 0.5}
    for proxy in (to_redis, to_ledger):
        proxy.delay(SLOW_EACH_WAY_S)
    with running(changed(far, **long), tmp_path) as worker:
        worker.wait_for("worker ready", timeout_s=120)
        with recovery(15, "a batch over a network of 0.2 s a round trip", within_s=None):
            batch = submitted(changed(near, **long), ordered_manifest(tmp_path, pairs=LONG_CHUNK))
            finished(near, batch, watch=worker, timeout_s=240)
        assert worker.process.poll() is None
        assert worker.events("stuck process killed") == []
    assert chunk_sums(near, batch) == UNTROUBLED
    assert results(near, batch) == ordered_results(LONG_CHUNK)
    check_promises(near, batch)


@pytest.mark.long
def test_a_redis_that_swallows_everything_silently_is_noticed(
    near: Settings, far: Settings, to_redis: TcpProxy, tmp_path: Path
) -> None:
    """A firewall that forgot a connection sends no RST: waiting for one would be waiting for ever.

    Safeguard: socket_timeout and health_check_interval in worker/app.py.
    """
    first, second = (ordered_manifest(tmp_path, pairs=pairs, name=f"{pairs}.csv") for pairs in (8, 12))
    with running(far, tmp_path) as worker:
        finished(near, submitted(near, first), watch=worker)
        to_redis.swallow()
        batch = submitted(near, second)
        wait_until(lambda: to_redis.swallowed, timeout_s=60, what="something to be swallowed")
        to_redis.heal()  # for whoever connects anew: nothing comes back on the old connection, ever
        with recovery(16, "half-open connection to Redis", within_s=30):
            finished(near, batch, watch=worker, timeout_s=180)
        assert worker.process.poll() is None
    assert chunk_sums(near, batch) == UNTROUBLED
    assert results(near, batch) == ordered_results(12)
    check_promises(near, batch)


@pytest.mark.long
def test_a_ledger_that_swallows_everything_silently_is_noticed_and_results_are_kept(
    near: Settings, far: Settings, to_ledger: TcpProxy, tmp_path: Path
) -> None:
    """Every byte is acknowledged by somebody in between, so the kernel sees a connection that is well.

    Safeguard: the limit on a silent answer (db/engine.py); tcp_user_timeout and keepalives never fire here.
    """
    # One long chunk, so that what is swallowed is a record, and never the answer to a claim.
    batch = submitted(changed(near, chunk_pairs=60), ordered_manifest(tmp_path, pairs=60))
    with running(changed(far, chunk_pairs=60, stub_pair_s=0.3), tmp_path) as worker:
        with ledger(near) as database:
            wait_until(lambda: progress(database, batch).judged, timeout_s=60, what="a first commit")
        to_ledger.swallow()
        # A pool process has results to tell, housekeeping its rounds to make: both ask, and hear nothing.
        wait_until(lambda: to_ledger.swallowed >= 2, timeout_s=60, what="two connections to be swallowed")
        to_ledger.heal()
        with recovery(16, "half-open connection to PostgreSQL", within_s=30):
            finished(near, batch, watch=worker, timeout_s=180)
        assert worker.process.poll() is None
        assert worker.events("stuck process killed") == []
    assert chunk_sums(near, batch) == UNTROUBLED
    assert {row.attempt for row in told(near, batch).values()} == {1}
    assert results(near, batch) == ordered_results(60)
    check_promises(near, batch)
