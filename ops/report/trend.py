"""A month's trend as a page, in the report's look: one file that loads nothing and runs nothing."""

from collections.abc import Mapping
from typing import Any

from ops.report.figures import milliseconds
from ops.report.page import rendered

FIGURES = {
    "outcomes": "outcomes",
    "yes_share": "Yes, of the verdicts",
    "no_share": "No, of the verdicts",
    "maybe_share": "Maybe, of the verdicts",
    "failed_share": "failed, of the outcomes",
    "cached_share": "from the cache, of the verdicts",
    "confidence_mean": "probability of the label that won, mean",
    "confidence_p5": "the same, 5th percentile",
    "decode_ms_p50": "reading and decoding, median",
    "decode_ms_p95": "the same, 95th percentile",
    "model_ms_p50": "the model's time, median",
    "model_ms_p95": "the same, 95th percentile",
}
CODES_A_DAY = 3


def trend_page(told: Mapping[str, Any]) -> str:
    """The HTML of what trend.json holds."""
    days: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for day in told["days"]:
        days.setdefault((day["model"], day["model_revision"]), []).append(day)
    revisions = [(one, days[one["model"], one["model_revision"]]) for one in told["revisions"]]
    before = told["before"]
    codes = {**dict.fromkeys(before["totals"]["failures"] if before else (), 0), **told["totals"]["failures"]}
    return rendered(
        "trend.html.j2",
        told=told,
        totals=told["totals"],
        before=before,
        revisions=revisions,
        changes=[(FIGURES[name], *_words(name, change)) for name, change in told["changes"].items()],
        codes=codes,
        percent=percent,
        ms=lambda value: "-" if value is None else milliseconds(value),
        bar=_bar,
        few=_few,
    )


def percent(share: float | None) -> str:
    """A share in per cent; a dash for nothing of nothing."""
    return "-" if share is None else f"{100 * share:.1f} %"


def _words(name: str, change: Mapping[str, float | None]) -> tuple[str, str, str]:
    """Before, now, and the difference: of shares in percentage points, of the others by how many per cent."""
    before, now, difference = change["before"], change["now"], change["difference"]
    if name.endswith("_share"):
        points = "-" if difference is None else f"{100 * difference:+.1f} points"
        return percent(before), percent(now), points
    shown = [_value(name, value) for value in (before, now)]
    if name.startswith("confidence"):
        return shown[0], shown[1], "-" if difference is None else f"{difference:+.3f}"
    relative = "-" if difference is None or not before else f"{100 * difference / before:+.1f} %"
    return shown[0], shown[1], relative


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name.startswith("confidence"):
        return f"{value:.3f}"
    return f"{value:,.0f}" if name == "outcomes" else milliseconds(value)


def _bar(shares: Mapping[str, float | None]) -> list[tuple[str, str, str]]:
    """(class, x, width) of each label's piece, of 100."""
    pieces, x = [], 0.0
    for label in ("No", "Maybe", "Yes"):
        width = 100 * (shares[label] or 0.0)
        pieces.append((label.lower(), f"{x:.2f}", f"{width:.2f}"))
        x += width
    return pieces


def _few(failures: Mapping[str, int]) -> list[tuple[str, int]]:
    """The most frequent codes of a day."""
    return list(failures.items())[:CODES_A_DAY]
