"""Takes the picture of docs/monitoring.md: the dashboard while the shipped model judges a real batch.

`python -m tests.browser.dashboard_picture docs/images` starts a Redis, a worker with two slots and a Prometheus with
our rules, submits drawn sample pairs, draws the dashboard's JSON as a page (tests/support/dashboard_page.py: it is not
Grafana) and photographs that in an installed Chromium. It ends all of them again; takes three minutes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from audit.settings import Settings
from db.queries import progress
from demo.samples import write_samples
from tests.support.browser import ARGUMENTS, find_browser
from tests.support.dashboard_data import Line, Span, lines, variables
from tests.support.dashboard_page import page as drawn_page
from tests.support.observability import RULES, dashboard, panels
from tests.support.ports import free_port
from tests.support.prometheus_server import Prometheus, find_prometheus
from tests.support.redis_server import RedisServer, find_redis
from tests.support.running import ROOT, ledger, running, submitted
from tests.support.running import variables as variables_of
from tests.support.waiting import wait_until

PAIRS = 6_000
LOOKED_AT_S = 150.0


def main() -> None:
    """Parse the arguments and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, help="where dashboard.png is written")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="how many pairs are judged meanwhile")
    parser.add_argument("--seconds", type=float, default=LOOKED_AT_S, help="how long is looked at")
    chosen = parser.parse_args()
    browser, redis_server, prometheus = find_browser(), find_redis(), find_prometheus()
    if browser is None or redis_server is None or prometheus is None:
        raise SystemExit("this needs an installed Chromium, a redis-server and a prometheus")
    folder: Path = chosen.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    redis = RedisServer(redis_server)
    redis.start()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            html = _judged(Path(temporary), redis.url, prometheus, pairs=chosen.pairs, looked_at_s=chosen.seconds)
            (Path(temporary) / "dashboard.html").write_text(html, encoding="utf-8")
            _photograph(Path(temporary) / "dashboard.html", folder / "dashboard.png", browser)
    finally:
        redis.close()


def _judged(temporary: Path, redis_url: str, executable: str, *, pairs: int, looked_at_s: float) -> str:
    settings = Settings.model_validate(
        {
            "home": temporary / "home",
            "redis_url": redis_url,
            "devices": "cpu",
            "slots_per_device": 2,
            "chunk_pairs": 16,
            "feed_every_s": 0.5,
            "http_port": free_port(),
        }
    )
    sheet = write_samples(temporary / "samples", count=pairs)
    _measure(settings)
    began = time.time()
    targets = {"caption-audit": [f"127.0.0.1:{settings.http_port}"]}
    prometheus = Prometheus(executable, temporary / "prometheus", targets=targets, rules=RULES, every_s=2)
    try:
        with running(settings, temporary) as worker:
            worker.wait_for("model proved", count=2, timeout_s=120)
            batch = submitted(settings, sheet)
            with ledger(settings) as database:
                wait_until(
                    lambda: time.time() - began > looked_at_s or progress(database, batch).finished,
                    timeout_s=looked_at_s + 60,
                    what="something to look at",
                )
                seen = progress(database, batch)
            html = _page(prometheus, Span(start=began, end=time.time(), step_s=2))
    finally:
        prometheus.close()
    print(f"taken while batch {batch} was {seen.state}: {seen.judged} of {seen.submitted} pairs judged")
    return html


def _measure(settings: Settings) -> None:
    """A baseline to compare with, as short as it can be."""
    command = [sys.executable, "-m", "ops.cli", "baseline", "--pairs", "400", "--seconds", "10"]
    subprocess.run(command, env={**os.environ, **variables_of(settings)}, cwd=ROOT, check=True)


def _page(prometheus: Prometheus, span: Span) -> str:
    made = dashboard()
    chosen = variables(made, prometheus)
    shown: dict[int, list[Line]] = {}
    for panel in panels(made):
        shown[panel["id"]] = lines(panel, prometheus, span, chosen, interval_s=8)
        if not shown[panel["id"]]:
            print(f"no data: {panel['title']}")
    return drawn_page(made, shown, span)


def _photograph(page: Path, picture: Path, browser: str) -> None:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=[*ARGUMENTS])
        looked_at = started.new_page(viewport={"width": 1600, "height": 900})
        looked_at.goto(page.as_uri())
        looked_at.screenshot(path=picture, full_page=True)
        started.close()
    with Image.open(picture) as taken:  # a third of the size, and nothing that the eye would miss
        taken.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    main()
