"""A real worker's pages, asked over HTTP as Prometheus asks."""

import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from audit.pair import BatchId
from audit.settings import Settings
from db.retry import retry_failures
from producer.submit import submit
from tests.support.manifests import draw, write_csv
from tests.support.ports import free_port
from tests.support.running import changed, finished, ledger, running, submitted
from tests.support.scraping import Scrape, ready_file, scraped
from tests.support.waiting import wait_until


def test_a_worker_tells_where_its_pages_are(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Nobody should have to guess the port of a worker that is asked what it does."""
    settings = changed(sqlite_settings, http_port=free_port())
    with running(settings, tmp_path) as worker:
        url = f"http://127.0.0.1:{settings.http_port}"
        wait_until(
            lambda: ready_file(settings, worker).get("pages") == url, timeout_s=60, what=f"pages\n{worker.tail()}"
        )
        assert scraped(url).value("caption_audit_fenced_writes_total") == 0
        assert worker.stop() == 0


def test_health_is_told_as_soon_as_there_are_pages(sqlite_settings: Settings, tmp_path: Path) -> None:
    """A probe that comes before the first round must be told that a worker starts, and must not make errors."""
    nobody = f"redis://127.0.0.1:{free_port()}/0"
    settings = changed(sqlite_settings, http_port=free_port(), feed_every_s=120, redis_url=nobody)
    with running(settings, tmp_path) as worker:
        live = f"http://127.0.0.1:{settings.http_port}/health/live"

        def status() -> int:
            try:
                with urllib.request.urlopen(live, timeout=60) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code

        wait_until(lambda: worker.events("pages served"), timeout_s=60, what=f"pages\n{worker.tail()}")
        assert status() == 200
        assert worker.events("page failed") == []
        worker.kill()


def test_the_page_of_a_worker_that_has_judged_holds_every_metric(settings: Settings, tmp_path: Path) -> None:
    """Counters equal the ledger's own counts, on both databases; promtool finds nothing to complain of."""
    settings = changed(settings, http_port=free_port(), chunk_pairs=8, tell_every_s=0.2, feed_every_s=0.1)
    manifest = mixed_manifest(tmp_path, pairs=40)
    with running(settings, tmp_path) as worker:
        url = f"http://127.0.0.1:{settings.http_port}"
        worker.wait_for("pages served", timeout_s=120)  # a port that was free may be somebody's for a while
        first = submitted(settings, manifest)
        finished(settings, first, watch=worker)
        second = submit(manifest, settings=settings, again=True).batch  # answered by the cache
        finished(settings, second, watch=worker)
        with ledger(settings) as database:
            retry_failures(database, second)
        finished(settings, second, watch=worker)
        seen = settled(url)
        check_text(seen.text)
        before = seen.series()
        third = submit(manifest, settings=settings, again=True).batch
        finished(settings, third, watch=worker)
        assert settled(url).series() == before, "a batch has made series of its own"
        assert worker.stop() == 0
    expected = counted_in_ledger(settings, (first, second))
    assert seen.by("caption_audit_verdicts_total", "label") == expected.labels
    assert seen.by("caption_audit_failures_total", "code") == expected.failures
    assert seen.by("caption_audit_cache_lookups_total", "result") == expected.cached
    assert seen.value("caption_audit_flagged_total") == expected.flagged
    assert seen.value("caption_audit_chunks_total", ending="done") == expected.chunks
    assert seen.value("caption_audit_queue_wait_seconds_count") == expected.chunks
    assert seen.value("caption_audit_confidence_count") == sum(expected.labels.values())
    assert seen.value("caption_audit_queue_pairs") == 0
    assert seen.value("caption_audit_slots", state="idle") == 1
    assert seen.value("caption_audit_health", depth="capability") == 1
    assert seen.value("caption_audit_model_info", engine="stub") == 1
    assert seen.value("caption_audit_disk_free_bytes", folder="home") > 0
    assert seen.value("caption_audit_slot_rss_bytes", slot="0") > 1_000_000
    assert 0 < seen.value("caption_audit_host_memory_ratio") < 1
    assert seen.value("caption_audit_images_total", format="PNG") > 0
    assert seen.value("caption_audit_model_load_seconds_count") == 1


def settled(url: str) -> Scrape:
    """A scrape after the last chunk was told: outcomes are committed a moment before they are counted."""
    wait_until(
        lambda: (
            scraped(url).value("caption_audit_slots", state="idle") == 1
            and scraped(url).value("caption_audit_queue_pairs") == 0
        ),
        timeout_s=60,
        what="the slot to be idle",
    )
    return scraped(url)


def mixed_manifest(folder: Path, *, pairs: int) -> Path:
    """Two verdicts of three, every third pair a picture that is not there."""
    draw(folder / "any.png")
    rows = (
        (f"p{number}", "any.png" if number % 3 else "none.png", f"stub:{'no' if number % 2 else 'yes'} {number}")
        for number in range(pairs)
    )
    return write_csv(folder / "mixed.csv", rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the ledger's rows say that was recorded."""

    labels: dict[str, float]
    failures: dict[str, float]
    cached: dict[str, float]
    flagged: float
    chunks: float


def counted_in_ledger(settings: Settings, batches: Sequence[BatchId]) -> Counted:
    among = f"batch IN ({', '.join(map(str, batches))})"
    with ledger(settings) as database, database.reading() as connection:

        def groups(statement: str) -> dict[str, float]:
            return {str(name): float(count) for name, count in connection.execute(text(statement)) if count}

        failures = groups(f"SELECT failure_code, count(*) FROM outcomes WHERE label IS NULL AND {among} GROUP BY 1")
        replaced = groups(f"SELECT failure_code, count(*) FROM failure_history WHERE {among} GROUP BY 1")
        answered = f"FROM outcomes WHERE label IS NOT NULL AND {among}"
        return Counted(
            labels=groups(f"SELECT label, count(*) {answered} GROUP BY 1"),
            failures={code: count + replaced.get(code, 0) for code, count in failures.items()},
            cached=groups(f"SELECT CASE WHEN cached THEN 'hit' ELSE 'miss' END, count(*) {answered} GROUP BY 1"),
            flagged=sum(groups(f"SELECT 'yes', count(*) {answered} AND flagged GROUP BY 1").values()),
            # Each chunk is done once, and those with failures once more after the retry.
            chunks=groups(f"SELECT 'all', count(*) FROM chunks WHERE {among}")["all"]
            + len(
                groups(
                    f"SELECT chunk, 1 FROM (SELECT row / 8 AS chunk FROM failure_history WHERE {among}) x GROUP BY 1"
                )
            ),
        )


def check_text(page: str) -> None:
    """As Prometheus' own tool reads it."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool")
    told = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
