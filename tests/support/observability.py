"""The files of deploy/observability/ as objects: rules, their tests, panels of the dashboard, names of metrics."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import Histogram

from telemetry.metrics import meters
from worker.gauge_values import GAUGES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "observability"
ORDER = ("recording", "work", "verdicts", "latency", "machines", "healing")
RULES = [FOLDER / "alerts" / f"{name}.yml" for name in ORDER]
RULE_TESTS = sorted((FOLDER / "tests").glob("*.yml"))
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
OF_PROMETHEUS = {"up", "ALERTS"}
"""Series that Prometheus makes itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One rule that fires; an alert with two tiers is two of them with one name."""

    name: str
    severity: str
    expr: str
    patience: str
    annotations: dict[str, str]


def rules() -> Iterator[dict[str, Any]]:
    """Every rule of every file, in order."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            yield from group["rules"]


def alerts() -> list[Alert]:
    """Every rule that fires."""
    return [
        Alert(
            name=rule["alert"],
            severity=rule["labels"]["severity"],
            expr=rule["expr"],
            patience=rule.get("for", "0s"),
            annotations=rule["annotations"],
        )
        for rule in rules()
        if "alert" in rule
    ]


def dashboard() -> dict[str, Any]:
    """The one dashboard."""
    (path,) = DASHBOARDS
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read


def panels(made: dict[str, Any], *, rows: bool = False) -> list[dict[str, Any]]:
    """Its panels, or with `rows` the lines between them too."""
    return [panel for panel in made["panels"] if rows or panel["type"] != "row"]


def queries(made: dict[str, Any]) -> list[str]:
    """Every expression: of panels, annotations and variables."""
    asked = [target["expr"] for panel in panels(made) for target in panel["targets"]]
    asked += [one["expr"] for one in made["annotations"]["list"] if "expr" in one]
    return asked + [one["definition"] for one in made["templating"]["list"] if "definition" in one]


def metrics_in(expression: str) -> set[str]:
    """Names of this project's metrics in an expression, recorded ones (with colons) and raw ones."""
    return set(re.findall(r"[a-z_]*:caption_audit_\w+:\w+|(?<![\w:])caption_audit_\w+", expression))


def exported() -> set[str]:
    """Every name that a worker's page can have."""
    names = {f"caption_audit_{name}" for name in GAUGES}
    for field in fields(meters()):
        metric = getattr(meters(), field.name)
        (described,) = metric.describe()
        endings = ("_bucket", "_sum", "_count") if isinstance(metric, Histogram) else ("_total",)
        names |= {f"{described.name}{ending}" for ending in endings}
    return names


def fired_in_a_unit_test() -> set[tuple[str, str]]:
    """Alert and severity of everything that a unit test expects to fire."""
    found: set[tuple[str, str]] = set()
    for path in RULE_TESTS:
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for one in test.get("alert_rule_test", []):
                found |= {(one["alertname"], told["exp_labels"]["severity"]) for told in one["exp_alerts"]}
            for one in test.get("promql_expr_test", []):
                found |= set(_fires(one))
    return found


def _fires(test: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for sample in test["exp_samples"]:
        labels = dict(re.findall(r'(\w+)="([^"]*)"', sample["labels"]))
        named = re.findall(r'alertname="(\w+)"', test["expr"]) or [labels.get("alertname", "")]
        yield named[0], labels["severity"]
