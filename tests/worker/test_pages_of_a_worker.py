"""A real worker's pages, asked over HTTP as Prometheus asks."""

from pathlib import Path

from audit.settings import Settings
from tests.support.running import changed, running
from tests.support.scraping import free_port, ready_file, scraped
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
