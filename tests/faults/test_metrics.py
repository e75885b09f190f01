"""Metrics while processes are killed, replaced and forked, and while Prometheus asks without a pause."""

import os
import signal
import threading
import time
import urllib.error
from pathlib import Path

import pytest

from audit.pair import BatchId
from audit.settings import Settings
from db.engine import Database
from db.queries import progress
from tests.support.manifests import ordered_manifest, ordered_results
from tests.support.ports import free_port
from tests.support.running import Worker, changed, check_promises, finished, ledger, results, running, submitted
from tests.support.scraping import Scrape, scraped
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
PAIRS, KILLS = 160, 10
"""With the processes that are replaced after three chunks, about thirty forks."""


def asking(url: str, over: threading.Event, seen: list[Scrape]) -> None:
    """Scrape without a pause; what is answered must be whole, and no counter may go back."""
    while not over.is_set():
        try:
            seen.append(scraped(url, timeout_s=60))
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)  # not listening yet, or this machine is so busy that a visit takes too long


def test_a_storm_of_scrapes_meets_forks_and_kills(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Every fork copies the thread that answers: a lock held at that moment would make a child that never works.

    Safeguard: a fork waits for the answer at hand, and a child gets locks of its own (worker/serving.py,
    telemetry/places.py).
    """
    settings = changed(
        sqlite_settings,
        http_port=free_port(),
        slots_per_device=2,
        devices="cpu",
        cache=False,
        chunk_pairs=4,
        max_tasks_per_child=3,
        max_attempts=100,
        feed_every_s=0.1,
        stub_pair_s=0.05,
    )
    url = f"http://127.0.0.1:{settings.http_port}"
    batch = submitted(settings, ordered_manifest(tmp_path, pairs=PAIRS))
    over, seen = threading.Event(), [Scrape(text="", samples=())]
    storm = [threading.Thread(target=asking, args=(url, over, seen)) for _ in range(4)]
    with running(settings, tmp_path) as worker, ledger(settings) as database:
        for thread in storm:
            thread.start()
        try:
            killed = 0
            while killed < KILLS and not progress(database, batch).finished:
                judged = progress(database, batch).judged
                killed += kill_one(worker)
                # A slot whose processes all die before they have finished anything is left alone, and rightly so.
                wait_until(lambda n=judged: has_got_on(database, batch, n), timeout_s=120, what=worker.tail())  # type: ignore[misc]  # its default
            finished(settings, batch, timeout_s=240, watch=worker)
        finally:
            over.set()
            for thread in storm:
                thread.join(timeout=90)
        assert not any(thread.is_alive() for thread in storm), "a scrape hangs"
        last = scraped(url)
        ports = [found for found in Path(f"/proc/{worker.process.pid}/fd").iterdir() if found.exists()]
        assert len(ports) < 200, "sockets pile up"
        assert worker.stop() == 0
    assert results(settings, batch) == ordered_results(PAIRS)
    check_promises(settings, batch)
    assert len(seen) > 20
    assert last.value("caption_audit_recycles_total", reason="chunks") > 0
    assert killed >= last.value("caption_audit_restarts_total", reason="killed") > 0
    # What was recorded and not yet counted when its process was killed is missing: a chunk a kill at most.
    assert PAIRS - 4 * killed <= last.value("caption_audit_verdicts_total") <= PAIRS


def has_got_on(database: Database, batch: BatchId, judged: int) -> bool:
    now = progress(database, batch)
    return now.finished or now.judged >= judged + 8


def kill_one(worker: Worker) -> int:
    """SIGKILL to a pool process that has begun to work."""
    children = worker.children()
    if not children:
        return 0
    os.kill(children[0].pid, signal.SIGKILL)
    return 1


def test_counters_go_on_when_their_process_is_killed(sqlite_settings: Settings, tmp_path: Path) -> None:
    """A counter that starts anew with each process would hide what was before, and files would pile up."""
    settings = changed(sqlite_settings, http_port=free_port(), chunk_pairs=4, feed_every_s=0.1)
    url = f"http://127.0.0.1:{settings.http_port}"
    with running(settings, tmp_path) as worker:
        for number in range(3):
            manifest = ordered_manifest(tmp_path, pairs=12 + number, name=f"{number}.csv")
            finished(settings, submitted(settings, manifest), watch=worker)
            wait_until(lambda n=number: verdicts(url) == sum(12 + i for i in range(n + 1)), timeout_s=60, what="counts")  # type: ignore[misc]  # its default
            pid = worker.children()[0].pid
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda n=number: restarts(url) == n + 1, timeout_s=60, what="the death to be counted")  # type: ignore[misc]  # its default
        assert worker.stop() == 0


def verdicts(url: str) -> float:
    return scraped(url).value("caption_audit_verdicts_total")


def restarts(url: str) -> float:
    return scraped(url).value("caption_audit_restarts_total", reason="killed")


def test_a_worker_whose_port_is_taken_judges_all_the_same(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Two workers of a host with one setting: the second one says so in a line, works, and serves no pages."""
    settings = changed(sqlite_settings, http_port=free_port(), chunk_pairs=4)
    with running(settings, tmp_path) as first:
        first.wait_for("pages served")
        with running(settings, tmp_path) as second:
            (told,) = second.wait_for("pages not served")
            assert "AUDIT_HTTP_PORT" in str(told)
            second.wait_for("model proved")
            assert first.stop() == 0
            batch = submitted(settings, ordered_manifest(tmp_path))
            finished(settings, batch, watch=second)
            assert second.stop() == 0
