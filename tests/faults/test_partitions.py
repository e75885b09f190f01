"""A host that is cut off: others take over its work, what it tells later is refused, and it goes on when it is back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.settings import Settings
from db.queries import progress
from tests.conftest import make_settings
from tests.support.ledger_sums import UNTROUBLED, chunk_holders, chunk_sums
from tests.support.manifests import ordered_manifest, ordered_results
from tests.support.network_namespace import OtherHost, other_host
from tests.support.ports import free_port
from tests.support.postgres_server import PostgresServer
from tests.support.recovery import recovery
from tests.support.redis_server import RedisServer
from tests.support.running import changed, check_promises, finished, ledger, results, running, submitted, told
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long
LEASE_S = 6


@pytest.fixture
def island() -> Iterator[OtherHost]:
    """Another host, with a cable that can be cut."""
    with other_host("island") as host:
        yield host


@pytest.fixture
def mainland(own_postgres: PostgresServer, own_redis: RedisServer, model_directory: Path, tmp_path: Path) -> Settings:
    """This host, beside the servers."""
    return make_settings(
        tmp_path,
        database_url=own_postgres.url("ledger"),
        redis_url=own_redis.url,
        model=str(model_directory),
        devices="cpu",
        cache=False,
        chunk_pairs=8,
        lease_s=LEASE_S,
        pair_limit_s=4,
        feed_every_s=0.5,
        resend_s=3,
        stub_pair_s=0.1,
    )


@pytest.fixture
def remote(mainland: Settings, island: OtherHost, own_postgres: PostgresServer, own_redis: RedisServer) -> Settings:
    """The same servers, as they are reached from the island: over the cable alone."""
    own_postgres.listen(island.address)
    own_redis.kill()
    port = free_port()
    own_redis.start("--bind", island.address, "--port", str(port), "--protected-mode", "no")
    return changed(
        mainland,
        database_url=own_postgres.url("ledger").replace("127.0.0.1", island.address),
        redis_url=f"redis://{island.address}:{port}/0",
    )


def test_a_worker_that_is_cut_off_is_replaced_and_what_it_tells_later_is_refused(
    mainland: Settings, remote: Settings, island: OtherHost, tmp_path: Path
) -> None:
    """Both sides judge the same pairs for a while; the table must not show it.

    Safeguard: the lease by the database's clock, and the fencing token that record looks at.
    """
    pairs = 240
    batch = submitted(mainland, ordered_manifest(tmp_path, pairs=pairs))
    with running(remote, tmp_path, before=island.before) as away:
        with ledger(mainland) as database:
            wait_until(lambda: progress(database, batch).judged, timeout_s=90, what="a first commit")
        with running(mainland, tmp_path) as here:
            here.wait_for("worker ready")
            island.cut()
            here.wait_for("claim taken over", timeout_s=120)
            wait_until(
                lambda: not chunk_holders(mainland, batch) & {"island"}, timeout_s=60, what="nothing held over there"
            )
            before = sum(row.worker.endswith("@island:0") for row in told(mainland, batch).values())
            assert away.process.poll() is None
            island.mend()
            with recovery(14, "cable to Redis and PostgreSQL mended", within_s=30):
                wait_until(lambda: chunk_sums(mainland, batch)["fenced"], timeout_s=120, what="the late writer")
            finished(mainland, batch, watch=here)
            again = submitted(mainland, ordered_manifest(tmp_path, pairs=60, name="again.csv"))
            wait_until(
                lambda: any("@island" in row.worker for row in told(mainland, again).values()),
                timeout_s=120,
                what="the island to judge again",
            )
            finished(mainland, again, watch=away)
        assert away.process.poll() is None
    assert before < pairs
    assert chunk_sums(mainland, batch)["fenced"] == 1
    assert results(mainland, batch) == ordered_results(pairs)
    assert chunk_sums(mainland, again) == UNTROUBLED
    check_promises(mainland, batch)
    check_promises(mainland, again)


def test_after_an_outage_for_everybody_no_lease_is_taken_for_ended(
    mainland: Settings, remote: Settings, island: OtherHost, tmp_path: Path
) -> None:
    """Every lease has run out while nobody could renew one: to sweep at once would charge a death to each chunk.

    Safeguard: housekeeping trusts no lease for one lease after the ledger was away.
    """
    pairs = 24
    batch = submitted(mainland, ordered_manifest(tmp_path, pairs=pairs))
    slow = changed(remote, chunk_pairs=8, stub_pair_s=1.0, slots_per_device=2)
    with running(slow, tmp_path, before=island.before) as worker:
        wait_until(lambda: chunk_sums(mainland, batch)["running"] == 2, timeout_s=90, what="two chunks in hand")
        island.cut()
        with ledger(mainland) as database:
            wait_until(lambda: chunk_sums(mainland, batch)["expired"] == 2, timeout_s=120, what="both leases to end")
            assert progress(database, batch).judged < pairs
        island.mend()
        with recovery(14, "cable mended after both leases had ended", within_s=30):
            finished(mainland, batch, watch=worker, timeout_s=180)
        assert worker.events("claim taken over") == []
        assert worker.events("stuck process killed") == []
    assert chunk_sums(mainland, batch) == UNTROUBLED
    assert results(mainland, batch) == ordered_results(pairs)
    check_promises(mainland, batch)
