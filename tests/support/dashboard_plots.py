"""Plots of the dashboard's page as SVG, by hand: lines and areas, bars of states, a heatmap."""

import math
import time
from collections.abc import Mapping
from html import escape
from typing import Any

from tests.support.dashboard_data import Line, Span

COLORS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#37872d", "#fade2a", "#c4162a")
NAMED = {"green": "#37872d", "orange": "#d9730d", "red": "#c4162a"}
LEFT_PX, BOTTOM_PX = 52, 16
SECONDS = ((1, "s"), (60, "min"), (3600, "h"), (86400, "d"))
ENDINGS = {"celsius": " °C", "cps": " c/s"}


def ticked(value: float, unit: str) -> str:
    """A number as Grafana would write it in this unit."""
    if unit == "s":
        return _seconds(value)
    if unit == "bytes":
        power = int(math.log(abs(value), 1024)) if value else 0
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    return f"{value:,.4g}{ENDINGS.get(unit, '')}"


def _seconds(value: float) -> str:
    if abs(value) < 1:
        return f"{value * 1000:.3g} ms" if value else "0 s"
    size, name = [one for one in SECONDS if abs(value) >= one[0]][-1]
    return f"{value / size:.3g} {name}"


def worded(panel: Mapping[str, Any], value: float) -> tuple[str, str]:
    """Text and color of one value, by the panel's mappings and thresholds."""
    defaults = panel["fieldConfig"]["defaults"]
    color = "green"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = step["color"]
    for mapping in defaults["mappings"]:
        if found := mapping["options"].get(f"{value:g}"):
            return found["text"], NAMED[found["color"]]
    return ticked(value, defaults["unit"]), NAMED[color]


def plot(
    panel: Mapping[str, Any], shown: list[Line], span: Span, size: tuple[int, int]
) -> tuple[list[tuple[str, str]], str]:
    """Names with their colors, and the picture of a timeseries panel, stacked if it is to be."""
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"]["stacking"]["mode"] != "none"
    colors = [(line.name, COLORS[number % len(COLORS)]) for number, line in enumerate(shown)]
    below: dict[float, float] = {}
    layers = []
    for line in shown:
        base = {at: below.get(at, 0.0) if stacked else 0.0 for at, _ in line.points}
        top = [(at, value + base[at]) for at, value in line.points]
        below.update(top)
        layers.append((top, base))
    highest = max(value for top, _ in layers for _, value in top)
    y_max = defaults.get("max") or _round_up(highest)
    frame = _Frame(span, size, y_max)
    parts = [frame.axes(defaults["unit"])]
    parts += [frame.threshold(step) for step in _dashed(defaults, y_max)]
    for (top, base), (_, color) in zip(layers, colors, strict=True):
        for run in _runs(top, span.step_s):
            path = " ".join(f"{frame.x(at):.1f},{frame.y(value):.1f}" for at, value in run)
            floor = " ".join(f"{frame.x(at):.1f},{frame.y(base[at]):.1f}" for at, _ in reversed(run))
            parts.append(f'<polygon points="{path} {floor}" fill="{color}" opacity="{0.45 if stacked else 0.1}"/>')
            parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.3"/>')
    return colors, frame.svg(parts)


def timeline(panel: Mapping[str, Any], shown: list[Line], span: Span, size: tuple[int, int]) -> str:
    """A bar for each series, in the color of its value."""
    frame = _Frame(span, size, 1.0, left=150)
    height = frame.bottom / len(shown)
    parts = [frame.times()]
    for number, line in enumerate(shown):
        top = number * height
        parts.append(f'<text x="0" y="{top + height / 2 + 4:.1f}">{escape(line.name)}</text>')
        for at, value in line.points:
            x, width = frame.x(at), frame.x(at + span.step_s) - frame.x(at)
            color = worded(panel, value)[1]
            place = f'x="{x:.1f}" y="{top + 1:.1f}" width="{width + 0.3:.1f}" height="{height - 3:.1f}"'
            parts.append(f'<rect {place} fill="{color}"/>')
    return frame.svg(parts)


def heatmap(panel: Mapping[str, Any], shown: list[Line], span: Span, size: tuple[int, int]) -> str:
    """Rows are a histogram's buckets; they are cumulative in Prometheus, and here they are not."""
    buckets = sorted(shown, key=lambda line: float(line.labels["le"]))
    frame = _Frame(span, size, 1.0)
    height = frame.bottom / len(buckets)
    held = {line.labels["le"]: dict(line.points) for line in buckets}
    most = max((value for line in buckets for _, value in line.points), default=0.0) or 1.0
    parts = [frame.times()]
    lower: dict[float, float] = {}
    for number, line in enumerate(buckets):
        top = frame.bottom - (number + 1) * height
        le = line.labels["le"]
        if number % 2 == 0:
            parts.append(f'<text x="0" y="{top + height / 2 + 4:.1f}">{_bound(le, panel)}</text>')
        for at, value in line.points:
            share = max(0.0, value - lower.get(at, 0.0)) / most
            if share > 0.001:
                x, width = frame.x(at), frame.x(at + span.step_s) - frame.x(at)
                place = f'x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height - 1:.1f}"'
                parts.append(f'<rect {place} fill="#ff9830" opacity="{0.1 + 0.9 * share:.2f}"/>')
        lower = held[le]
    return frame.svg(parts)


class _Frame:
    """From time and value to a place in the picture, and the axes."""

    def __init__(self, span: Span, size: tuple[int, int], y_max: float, *, left: int = LEFT_PX) -> None:
        self.span, self.left, self.y_max = span, left, y_max
        self.width, self.height = size
        self.bottom = self.height - BOTTOM_PX

    def x(self, at: float) -> float:
        return self.left + (at - self.span.start) / (self.span.end - self.span.start) * (self.width - self.left)

    def y(self, value: float) -> float:
        return self.bottom - min(value / self.y_max, 1.05) * (self.bottom - 6)

    def axes(self, unit: str) -> str:
        parts = [self.times()]
        for number in range(5):
            value = self.y_max * number / 4
            y = self.y(value)
            line = f'<line x1="{self.left}" x2="{self.width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#26282e"/>'
            parts.append(
                f'{line}<text x="{self.left - 6}" y="{y + 3:.1f}" text-anchor="end">{ticked(value, unit)}</text>'
            )
        return "".join(parts)

    def times(self) -> str:
        parts = []
        for number in range(1, 5):
            at = self.span.start + (self.span.end - self.span.start) * number / 5
            told = time.strftime("%H:%M:%S", time.gmtime(at))
            parts.append(f'<text x="{self.x(at):.1f}" y="{self.height - 2}" text-anchor="middle">{told}</text>')
        return "".join(parts)

    def threshold(self, step: Mapping[str, Any]) -> str:
        y = self.y(step["value"])
        look = f'stroke="{NAMED[step["color"]]}" stroke-dasharray="6 4"'
        return f'<line x1="{self.left}" x2="{self.width}" y1="{y:.1f}" y2="{y:.1f}" {look}/>'

    def svg(self, parts: list[str]) -> str:
        return f'<svg viewBox="0 0 {self.width} {self.height}">{"".join(parts)}</svg>'


def _dashed(defaults: Mapping[str, Any], y_max: float) -> list[Mapping[str, Any]]:
    if defaults["custom"]["thresholdsStyle"]["mode"] == "off":
        return []
    return [step for step in defaults["thresholds"]["steps"] if step["value"] is not None and step["value"] <= y_max]


def _round_up(value: float) -> float:
    """1, 2, 4 or 5 times a power of ten, at least the value."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1, 2, 4, 5, 8, 10) if step * power >= value), 10 * power)


def _runs(points: list[tuple[float, float]], step_s: float) -> list[list[tuple[float, float]]]:
    """Parts without a gap: where nothing was measured nothing is drawn."""
    runs: list[list[tuple[float, float]]] = []
    for point in points:
        if runs and point[0] - runs[-1][-1][0] <= step_s * 1.5:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def _bound(le: str, panel: Mapping[str, Any]) -> str:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    return "+Inf" if le == "+Inf" else ticked(float(le), unit)
