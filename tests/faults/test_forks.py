"""Forks of a process that talks to PostgreSQL: two that share a connection would read each other's answers."""

from pathlib import Path

import psutil
import pytest

from audit.settings import Settings
from db.queries import progress
from tests.conftest import make_settings
from tests.support.ledger_sums import UNTROUBLED, chunk_sums
from tests.support.manifests import ordered_manifest, ordered_results
from tests.support.postgres_server import PostgresServer
from tests.support.recovery import recovery
from tests.support.running import Worker, check_promises, ledger, results, running, submitted
from tests.support.waiting import wait_until

pytestmark = pytest.mark.long
PAIRS = 60


def connections(worker: Worker, server_port: int) -> dict[int, set[int]]:
    """Local ports of a worker's connections to PostgreSQL, by process."""
    found: dict[int, set[int]] = {}
    main = psutil.Process(worker.process.pid)
    for process in (main, *main.children(recursive=True)):
        try:
            open_now = process.net_connections("tcp")
        except psutil.Error:
            continue  # it has just left
        ports = {each.laddr.port for each in open_now if each.raddr and each.raddr.port == server_port}
        if ports:
            found[process.pid] = ports
    return found


def test_no_two_processes_of_a_worker_share_a_connection(
    own_postgres: PostgresServer, redis_url: str, model_directory: Path, tmp_path: Path
) -> None:
    """Children are replaced after every chunk while housekeeping talks to the ledger ten times a second.

    Safeguard: a fork waits for the end of a round, and no connection outlives one (worker/housekeeping.py).
    """
    settings: Settings = make_settings(
        tmp_path,
        database_url=own_postgres.url("ledger"),
        redis_url=redis_url,
        model=str(model_directory),
        devices="cpu",
        slots_per_device=2,
        cache=False,
        chunk_pairs=4,
        feed_every_s=0.02,
        max_tasks_per_child=1,
        stub_pair_s=0.05,
    )
    batch = submitted(settings, ordered_manifest(tmp_path, pairs=PAIRS))
    had: set[int] = set()

    def drained() -> bool:
        by_process = connections(worker, own_postgres.port)
        ports = [port for each in by_process.values() for port in each]
        assert len(ports) == len(set(ports)), f"a connection belongs to two processes: {by_process}"
        had.update(by_process)
        return progress(database, batch).finished

    with running(settings, tmp_path) as worker, ledger(settings) as database:
        with recovery(26, "every child replaced after its chunk", within_s=None):
            wait_until(drained, timeout_s=180, what="the batch to finish")
        assert worker.process.poll() is None
    assert len(had) > 4, "no child was replaced: nothing was forked"
    assert chunk_sums(settings, batch) == UNTROUBLED
    assert results(settings, batch) == ordered_results(PAIRS)
    check_promises(settings, batch)
