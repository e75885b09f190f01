"""Flower's pages in a real browser: what a person sees, and what a hostile message does not do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, HttpCredentials, Page

from audit.settings import Settings
from tests.support.flower import FlowerSeen, flower_running, received, send_events
from tests.support.manifests import small_manifest
from tests.support.running import changed, finished, running, submitted, variables
from tests.support.waiting import wait_until

HOSTILE = "<img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>"
PAGE_MS = 30_000


@pytest.fixture
def flower(sqlite_settings: Settings, tmp_path: Path) -> Iterator[FlowerSeen]:
    with flower_running(variables(sqlite_settings), tmp_path) as seen:
        yield seen


@pytest.fixture
def signed_in(browser: Browser, flower: FlowerSeen) -> Iterator[Page]:
    """A page of somebody who has typed user and password."""
    credentials = HttpCredentials(username=flower.user, password=flower.password)
    context = browser.new_context(http_credentials=credentials, viewport={"width": 1280, "height": 800})
    yield context.new_page()
    context.close()


def test_a_stranger_sees_no_page(page: Page, flower: FlowerSeen) -> None:
    """The browser wants a password; without one there is nothing to see."""
    with pytest.raises(Error, match="INVALID_AUTH_CREDENTIALS"):
        page.goto(f"{flower.url}/tasks")


def test_the_page_of_tasks_reads_as_batch_chunk_and_pairs(
    signed_in: Page, flower: FlowerSeen, sqlite_settings: Settings, tmp_path: Path
) -> None:
    """And it is whole: style and scripts come through the door and its headers."""
    problems: list[str] = []
    signed_in.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    signed_in.on("pageerror", lambda error: problems.append(str(error)))
    settings = changed(sqlite_settings, devices="cpu", feed_every_s=0.1, chunk_pairs=4)
    with running(settings, tmp_path) as worker:
        worker.wait_for("worker ready")
        batch = submitted(settings, small_manifest(tmp_path, pairs=8))
        finished(settings, batch, watch=worker)
        wait_until(lambda: len(flower.json("/api/tasks")) == 2, timeout_s=30, what="two tasks")
        signed_in.goto(f"{flower.url}/tasks")
        for chunk in (0, 1):
            signed_in.get_by_text(f"batch {batch}, chunk {chunk}, 4 pairs").first.wait_for(timeout=PAGE_MS)
        assert signed_in.get_by_text("caption_audit.judge").count() >= 2
        signed_in.goto(f"{flower.url}/workers")
        signed_in.get_by_text(f"caption-audit-{worker.process.pid}").first.wait_for(timeout=PAGE_MS)
        signed_in.get_by_text(f"caption-audit-{worker.process.pid}").first.click()
        signed_in.get_by_text("Pool").first.wait_for(timeout=PAGE_MS)
        signed_in.goto(f"{flower.url}/broker")
        signed_in.get_by_text("audit.v1.bulk.").first.wait_for(timeout=PAGE_MS)
    assert problems == []


def test_text_from_redis_is_text_on_the_page(
    signed_in: Page, flower: FlowerSeen, sqlite_settings: Settings, tmp_path: Path
) -> None:
    """Whoever can write to Redis must not get a script into the browser of whoever looks."""
    url = sqlite_settings.broker_url
    fields = {"name": f"name {HOSTILE}", "kwargs": f"kwargs {HOSTILE}", "args": HOSTILE}

    def heard() -> bool:
        send_events(url, received("hostile-1", **fields), {"type": "worker-online"}, worker=f"w{HOSTILE}@h")
        return "hostile-1" in flower.json("/api/tasks")

    wait_until(heard, timeout_s=30, what="the hostile task")
    for path in ("/tasks", "/task/hostile-1", "/workers"):
        signed_in.goto(f"{flower.url}{path}")
        signed_in.get_by_text("<script>").first.wait_for(timeout=PAGE_MS)
        assert signed_in.title() != "ran", path
        assert signed_in.locator("img[src=x]").count() == 0, path
