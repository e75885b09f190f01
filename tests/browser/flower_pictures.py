"""Takes the pictures of docs/flower.md: Flower in a real Chromium while the shipped model judges a real batch.

`python -m tests.browser.flower_pictures docs/images` starts a Redis, a worker with two slots and a Flower of its own,
submits drawn sample pairs, and ends all of them again. Takes a minute; needs an installed Chromium.
"""

import argparse
import tempfile
from pathlib import Path

from playwright.sync_api import HttpCredentials, Page, sync_playwright

from audit.settings import Settings
from db.queries import progress
from demo.samples import write_samples
from tests.support.browser import ARGUMENTS, find_browser
from tests.support.flower import FlowerSeen, flower_running
from tests.support.redis_server import RedisServer, find_redis
from tests.support.running import ledger, running, submitted, variables
from tests.support.waiting import wait_until

PAIRS = 1_200
PAGE_MS = 30_000


def main() -> None:
    """Parse the arguments and take both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="where flower-tasks.png and flower-workers.png are written")
    folder: Path = parser.parse_args().folder.resolve()
    browser, executable = find_browser(), find_redis()
    if browser is None or executable is None:
        raise SystemExit("this needs an installed Chromium, and a redis-server")
    folder.mkdir(parents=True, exist_ok=True)
    redis = RedisServer(executable)
    redis.start()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            _take(folder, Path(temporary), redis.url, browser)
    finally:
        redis.close()


def _take(folder: Path, temporary: Path, redis_url: str, browser: str) -> None:
    settings = Settings.model_validate(
        {
            "home": temporary / "home",
            "redis_url": redis_url,
            "devices": "cpu",
            "slots_per_device": 2,
            "chunk_pairs": 64,
            "feed_every_s": 0.2,
        }
    )
    sheet = write_samples(temporary / "samples", count=PAIRS)
    with flower_running(variables(settings), temporary) as flower, running(settings, temporary) as worker:
        worker.wait_for("model proved", count=2, timeout_s=120)
        batch = submitted(settings, sheet)
        with ledger(settings) as database, sync_playwright() as playwright:
            started = playwright.chromium.launch(executable_path=browser, args=[*ARGUMENTS])
            credentials = HttpCredentials(username=flower.user, password=flower.password)
            page = started.new_context(http_credentials=credentials, viewport={"width": 1360, "height": 760}).new_page()
            wait_until(lambda: progress(database, batch).chunks.get("done", 0) >= 6, timeout_s=120, what="six chunks")
            _pictures(page, flower, folder)
            seen = progress(database, batch)
            started.close()
        print(f"taken while batch {batch} was {seen.state}: {seen.judged} of {seen.submitted} pairs judged")


def _pictures(page: Page, flower: FlowerSeen, folder: Path) -> None:
    page.goto(f"{flower.url}/tasks")
    page.get_by_text("STARTED").first.wait_for(timeout=PAGE_MS)
    page.screenshot(path=folder / "flower-tasks.png")
    page.goto(f"{flower.url}/workers")
    page.get_by_text("caption-audit-").first.wait_for(timeout=PAGE_MS)
    page.wait_for_load_state("networkidle")
    page.screenshot(path=folder / "flower-workers.png")


if __name__ == "__main__":
    main()
