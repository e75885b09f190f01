"""Which plots a report has, and the table behind each."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from ops.report.facts import CONFIDENCE_BOUNDS, LABELS, MS_BOUNDS, Report, StageTimes, place_of
from ops.report.plots import bars, histogram
from ops.text import one_line

CODES_DRAWN = 12
STAGE_TITLES = {"decode": "Reading and decoding a picture", "model": "The model's time for a pair"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot, its numbers as a table (a heading row first), and the names of the statements behind it."""

    title: str
    note: str
    key: Sequence[str]
    svg: Markup
    table: Sequence[Sequence[str]]
    sql: Sequence[str]


def figures(report: Report) -> list[Figure]:
    """Every plot that has something to show."""
    made = [_labels(report)]
    if report.verdicts:
        made.append(_confidence(report))
    made += [_times(name, stage) for name, stage in report.stages.items() if stage.pairs]
    if report.counts["failed"]:
        made.append(_failures(report))
    return made


def _labels(report: Report) -> Figure:
    values = {label: report.counts[label.lower()] for label in LABELS} | {"failed": report.counts["failed"]}
    total = sum(values.values())
    shares = [[name, f"{value:,}", share(value, total)] for name, value in values.items()]
    title = "Labels and failures: " + ", ".join(f"{name} {value:,}" for name, value in values.items())
    words = [f"{value:,} ({share(value, total)})" for value in values.values()]
    svg = bars(values, words=words, colours=[name.lower() for name in values], title=title, inches_a_bar=0.46)
    return Figure(
        title="Labels",
        note="What the model answered, and how many pairs could not be judged.",
        key=(),
        svg=Markup(svg),  # noqa: S704 - our own drawing
        table=[["label", "pairs", "share of the judged"], *shares],
        sql=["counts"],
    )


def _confidence(report: Report) -> Figure:
    edges = ["1/3", *(f"{bound:g}" for bound in CONFIDENCE_BOUNDS[1:])]
    rows = [
        [f"{low} to {high}", *(f"{report.confidence[label][number]:,}" for label in LABELS)]
        for number, (low, high) in enumerate(pairwise(edges))
    ]
    drawn = {label.lower(): report.confidence[label] for label in LABELS}
    title = f"Histogram of the winning label's probability, {report.verdicts:,} verdicts"
    svg = histogram(drawn, edges=edges, title=title, label="probability of the label that won", marks={})
    return Figure(
        title="How sure the model was",
        note="Pairs by the probability of the label that won. What is far left was nearly a tie.",
        key=LABELS,
        svg=Markup(svg),  # noqa: S704 - our own drawing
        table=[["probability", *LABELS], *rows],
        sql=["confidence"],
    )


def _times(name: str, stage: StageTimes) -> Figure:
    used = [number for number, pairs in enumerate(stage.bins) if pairs]
    first, last = max(0, used[0] - 1), min(len(stage.bins) - 1, used[-1] + 1)
    bounds, bins = MS_BOUNDS[first : last + 2], stage.bins[first : last + 1]
    edges = [bound(one) for one in bounds]
    marks = {f"p{percent}": place_of(stage.percentiles_ms[percent]) - first for percent in (50, 95)}
    title = f"Histogram of the times of {stage.pairs:,} pairs"
    svg = histogram(
        {"time": bins},
        edges=edges,
        title=title,
        label="time a pair",
        marks=marks,
    )
    said = {"mean": stage.mean_ms} | {f"p{percent}": ms for percent, ms in stage.percentiles_ms.items()}
    said["most"] = stage.most_ms
    rows = [[f"{low} to {high}", f"{pairs:,}"] for (low, high), pairs in zip(pairwise(edges), bins, strict=True)]
    words = ", ".join(f"{word} {milliseconds(ms)}" for word, ms in said.items())
    return Figure(
        title=STAGE_TITLES[name],
        note=f"{stage.pairs:,} verdicts: {words}.",
        key=(),
        svg=Markup(svg),  # noqa: S704 - our own drawing
        table=[["time", "pairs"], *rows],
        sql=[f"{name}_histogram", f"{name}_times"],
    )


def _failures(report: Report) -> Figure:
    codes = {one_line(str(row["failure_code"]), limit=40): int(row["pairs"]) for row in report.rows("failures")}
    drawn = dict(list(codes.items())[:CODES_DRAWN])
    rest = sum(codes.values()) - sum(drawn.values())
    if rest:
        drawn["all others"] = rest
    words = [f"{pairs:,}" for pairs in drawn.values()]
    title = "Failures: " + ", ".join(f"{code} {pairs:,}" for code, pairs in drawn.items())
    svg = bars(drawn, words=words, colours=["failed"] * len(drawn), title=title)
    return Figure(
        title="Failures by code",
        note="Pairs that could not be judged; examples are below.",
        key=(),
        svg=Markup(svg),  # noqa: S704 - our own drawing
        table=[["code", "pairs"], *([code, f"{pairs:,}"] for code, pairs in codes.items())],
        sql=["failures"],
    )


def share(part: int, whole: int) -> str:
    """A percentage; nothing of nothing is a dash."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def bound(ms: float) -> str:
    """A bin's bound, short."""
    return "more" if ms == float("inf") else f"{ms:g} ms" if ms < 1000 else f"{ms / 1000:g} s"


def milliseconds(ms: float) -> str:
    """Three digits."""
    return f"{ms / 1000:.3g} s" if ms >= 1000 else f"{ms:.3g} ms"
