"""Every metric that there is, with every label, served as a worker's page and scraped by a real Prometheus.

Names and labels are those of the code; each scrape finds counters and histograms grown, and the gauges' values are made
up.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, Metric, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from telemetry.metrics import meters
from tests.support.observability import RULES
from tests.support.ports import free_port
from tests.support.prometheus_server import Prometheus
from tests.support.waiting import wait_until
from worker.gauge_values import GAUGES

SCRAPES = 6
VALUES: Mapping[str, tuple[str, ...]] = {
    "label": ("Yes", "No", "Maybe"),
    "code": ("image_missing", "image_too_large"),
    "result": ("hit", "miss", "right", "wrong"),
    "ended": ("halved", "alone", "failed", "cpu"),
    "stage": ("claim", "preprocess", "inference", "postprocess", "record"),
    "lane": ("interactive", "bulk"),
}
"""Of labels whose values queries name; others have the one value `some`."""
OF_GAUGES: Mapping[str, tuple[str, ...]] = {
    "lane": VALUES["lane"],
    "stage": VALUES["stage"],
    "state": ("judging", "idle"),
    "kind": ("used", "total"),
    "depth": ("process", "resources", "capability"),
    "quantile": ("0.5", "0.95", "0.99"),
    "model": ("demo",),
    "device": ("cuda:0",),
    "folder": ("home",),
    "slot": ("0",),
}
"""The same of gauges."""


class EveryMetric(Collector):
    """Counts once more in everything each time it is asked."""

    def collect(self) -> Iterator[Metric]:
        for field in fields(meters()):
            metric = getattr(meters(), field.name)
            for labelled in _children(metric, metric._labelnames):
                labelled.observe(0.4) if isinstance(metric, Histogram) else labelled.inc()
            yield from metric.collect()
        for name, (told, labels) in GAUGES.items():
            family = GaugeMetricFamily(f"caption_audit_{name}", told, labels=labels)
            for values in product(*(OF_GAUGES.get(label, ("some",)) for label in labels)):
                family.add_metric(values, 0.5)
            yield family


class StillLoading(Collector):
    """What a worker tells that has no model yet."""

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("caption_audit_health", "made up", labels=["depth"])
        family.add_metric(["process"], 1.0)
        yield family


@contextmanager
def scraped(executable: str, folder: Path) -> Iterator[Prometheus]:
    """A Prometheus that has seen all of it a few times, of one worker; another one is still loading its model."""
    with served(EveryMetric()) as one, served(StillLoading()) as other:
        prometheus = Prometheus(executable, folder, targets={"caption-audit": [one, other]}, rules=RULES)
        try:
            asked = f"count(count_over_time(up[5m]) >= {SCRAPES}) == 2 and on () ALERTS"
            wait_until(lambda: prometheus.query(asked), timeout_s=90, what=f"{SCRAPES} scrapes and an alert")
            yield prometheus
        finally:
            prometheus.close()


@contextmanager
def served(collector: Collector) -> Iterator[str]:
    """Host and port of a page with this collector's metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    port = free_port()
    server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _children(metric: Any, names: tuple[str, ...]) -> Iterator[Any]:
    """The metric itself, or one for each value of its label; none has more than one label."""
    if not names:
        yield metric
        return
    (name,) = names
    for value in VALUES.get(name, ("some",)):
        yield metric.labels(value)
