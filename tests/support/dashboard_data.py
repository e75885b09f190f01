"""The dashboard's questions, put to a Prometheus as Grafana would put them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.prometheus_server import Prometheus, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The time that is looked at, in Unix seconds."""

    start: float
    end: float
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series of a panel; `points` are (time, value) without those that are no number."""

    name: str
    labels: Mapping[str, str]
    points: list[tuple[float, float]]


def variables(made: Mapping[str, Any], prometheus: Prometheus, **chosen: str) -> dict[str, str]:
    """What the dashboard's variables are: everything, but for what is `chosen`."""
    found: dict[str, str] = {}
    for one in made["templating"]["list"]:
        if one["type"] != "query":
            continue
        name = one["name"]
        if name in chosen or one.get("allValue"):
            found[name] = chosen.get(name) or one["allValue"]
            continue
        asked = re.fullmatch(r"query_result\((.+)\)", one["definition"])
        label = re.fullmatch(r'/(\w+)="\(\[\^"\]\*\)"/', one["regex"])
        assert asked, one["definition"]
        assert label, one["regex"]
        rows = prometheus.query(expand(asked[1], found, interval_s=1))
        found[name] = "|".join(sorted({re.escape(row["metric"][label[1]]) for row in rows}))
    return found


def expand(expression: str, values: Mapping[str, str], *, interval_s: int) -> str:
    """With variables and intervals put in."""
    expression = expression.replace("$__rate_interval", f"{interval_s}s").replace("$__range", "1h")
    for name, value in values.items():
        # A value stands in a string of PromQL, where a backslash is doubled.
        expression = expression.replace(f"${name}", value.replace("\\", "\\\\"))
    return expression


def lines(
    panel: Mapping[str, Any], prometheus: Prometheus, span: Span, values: Mapping[str, str], *, interval_s: int
) -> list[Line]:
    """Every series that the panel shows; AssertionError when Prometheus does not take a query."""
    found: list[Line] = []
    for target in panel["targets"]:
        asked = expand(target["expr"], values, interval_s=interval_s)
        if target["instant"]:
            rows = [{**row, "values": [row["value"]]} for row in prometheus.query(asked)]
        else:
            rows = prometheus.query_range(asked, start=span.start, end=span.end, step_s=span.step_s)
        found += [_line(row, str(target["legendFormat"])) for row in rows]
    return [line for line in found if line.points]


def _line(row: Row, legend: str) -> Line:
    labels: dict[str, str] = row["metric"]
    name = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)
    if legend == "__auto":
        name = ", ".join(f"{key}={value}" for key, value in labels.items())
    points = [(float(at), float(value)) for at, value in row["values"]]
    return Line(name=name, labels=labels, points=[point for point in points if math.isfinite(point[1])])
