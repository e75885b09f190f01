"""Every panel's queries, put to a real Prometheus that has scraped every metric."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import every_metric
from tests.support.dashboard_data import Span, lines, variables
from tests.support.observability import dashboard, panels
from tests.support.prometheus_server import Prometheus, find_prometheus


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    executable = find_prometheus()
    if executable is None:
        pytest.skip("there is no prometheus: install it (apt: prometheus)")
    with every_metric.scraped(executable, tmp_path_factory.mktemp("prometheus")) as made:
        yield made


@pytest.mark.parametrize("panel", panels(dashboard()), ids=lambda panel: f"{panel['id']}-{panel['title']}")
def test_a_panel_shows_something(panel: dict[str, Any], prometheus: Prometheus) -> None:
    """A query that Prometheus refuses, or a label that no metric has, leaves a panel as empty as good news does."""
    now = time.time()
    span = Span(start=now - 60, end=now, step_s=1)
    shown = lines(panel, prometheus, span, variables(dashboard(), prometheus), interval_s=4)
    assert shown
    asked = {target["legendFormat"] for target in panel["targets"]} - {"__auto"}
    assert all(line.name.strip() for line in shown if asked)
    if panel["type"] != "table":
        assert len({line.name for line in shown}) == len(shown), "two series of one name"


def test_a_worker_is_found_unless_it_has_another_model(prometheus: Prometheus) -> None:
    """One that cannot load its model tells of none, and is the one that has to be looked at."""
    everything = variables(dashboard(), prometheus)
    assert everything["model"] == ".*"
    assert re.fullmatch(r"127\\.0\\.0\\.1:\d+\|127\\.0\\.0\\.1:\d+", everything["instance"])
    assert variables(dashboard(), prometheus, model="demo")["instance"] == everything["instance"]
    without_model = variables(dashboard(), prometheus, model="another")["instance"]
    assert without_model
    assert without_model in everything["instance"].split("|")


def test_the_rules_run(prometheus: Prometheus) -> None:
    """What promtool takes may still fail on real series: two of one name, or a pair that matches twice."""
    told = prometheus.rules()
    assert len(told) > 40
    assert {rule["name"]: rule["lastError"] for rule in told if rule.get("lastError")} == {}
    assert {rule["health"] for rule in told} == {"ok"}


def test_every_query_of_a_panel_returns_something(prometheus: Prometheus) -> None:
    """One of two lines may be missing in a panel that shows the other."""
    now = time.time()
    span = Span(start=now - 60, end=now, step_s=1)
    chosen = variables(dashboard(), prometheus)
    empty = [
        target["expr"]
        for panel in panels(dashboard())
        for target in panel["targets"]
        if not lines({"targets": [target]}, prometheus, span, chosen, interval_s=4)
    ]
    assert empty == []


def test_a_query_that_is_refused_is_noticed(prometheus: Prometheus) -> None:
    """The tests above stand on this one."""
    with pytest.raises(AssertionError, match="parse error"):
        prometheus.query("sum(rate(caption_audit_verdicts_total)) by")
