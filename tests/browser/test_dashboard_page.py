"""The dashboard, drawn from its JSON with what a real Prometheus answers, in a real browser."""

import time
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.support import every_metric
from tests.support.dashboard_data import Span, lines, variables
from tests.support.dashboard_page import page as drawn_page
from tests.support.observability import dashboard, panels
from tests.support.prometheus_server import find_prometheus


def test_every_panel_is_seen_with_data(page: Page, tmp_path: Path) -> None:
    """Places and sizes are numbers in a file; whether a person can read the result shows here."""
    executable = find_prometheus()
    if executable is None:
        pytest.skip("there is no prometheus: install it (apt: prometheus)")
    made = dashboard()
    with every_metric.scraped(executable, tmp_path / "prometheus") as prometheus:
        now = time.time()
        span = Span(start=now - 30, end=now, step_s=1)
        chosen = variables(made, prometheus)
        shown = {panel["id"]: lines(panel, prometheus, span, chosen, interval_s=4) for panel in panels(made)}
    (tmp_path / "dashboard.html").write_text(drawn_page(made, shown, span), encoding="utf-8")
    page.set_viewport_size({"width": 1600, "height": 900})
    page.goto((tmp_path / "dashboard.html").as_uri())
    assert page.locator("section").count() == len(panels(made))
    assert page.get_by_text("No data").count() == 0
    assert page.locator("h2").all_inner_texts()[0].endswith("Is it well?")
    overflowing = page.evaluate(
        "[...document.querySelectorAll('h3')].filter(e => e.scrollWidth > e.clientWidth).length"
    )
    assert overflowing == 0, "a title is cut off"
    assert page.locator("section:has-text('p95 by stage') svg polyline").count() == 5
