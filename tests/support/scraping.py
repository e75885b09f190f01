"""Asking a worker for its metrics as Prometheus does, and reading them with Prometheus' own parser."""

import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from audit.settings import Settings
from tests.support.running import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """All samples of one scrape, and the text that they were read from."""

    text: str
    samples: tuple[Sample, ...]

    def value(self, name: str, **labels: str) -> float:
        """Sum of the samples of that name with at least these labels."""
        return sum(sample.value for sample in self.samples if sample.name == name and _has(sample.labels, labels))

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Values above zero by one label."""
        found: dict[str, float] = {}
        for sample in self.samples:
            if sample.name == name and sample.value and _has(sample.labels, labels):
                found[sample.labels[label]] = found.get(sample.labels[label], 0.0) + sample.value
        return found

    def series(self) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        """Names with their labels, without values."""
        return {(sample.name, tuple(sorted(sample.labels.items()))) for sample in self.samples}


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())


def scraped(url: str, *, timeout_s: float = 60) -> Scrape:
    """GET /metrics."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=timeout_s) as answer:  # noqa: S310 - a worker of ours
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parsed(answer.read().decode())


def parsed(text: str) -> Scrape:
    """As Prometheus reads it."""
    families = text_string_to_metric_families(text)
    return Scrape(text=text, samples=tuple(sample for family in families for sample in family.samples))


def ready_file(settings: Settings, worker: Worker) -> dict[str, Any]:
    """What the worker last wrote of itself; nothing before it did."""
    try:
        told: dict[str, Any] = json.loads((settings.home / "run" / f"worker-{worker.process.pid}.json").read_text())
    except (OSError, ValueError):
        return {}
    return told
