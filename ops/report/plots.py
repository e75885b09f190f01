"""The report's plots, drawn without a display and without Matplotlib's global state."""

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ops.report.svg import flattened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"yes": "#0072b2", "no": "#d55e00", "maybe": "#e69f00", "failed": "#7f7f7f", "time": "#009e73"}
"""Told apart by colour-blind people too (Okabe and Ito); the style sheet has others for dark pages."""
INK, GRID = "#101010", "#c0c0c0"
CLASSES = {colour: name for name, colour in COLOURS.items()} | {INK: "ink", GRID: "grid"}
WIDTH_INCHES = 5.2
"""374 points: on a telephone's screen the words have about the size that they are drawn with."""
STYLE = {
    "svg.fonttype": "none",  # words stay words: small, and selectable
    "svg.hashsalt": "caption-audit",
    "text.parse_math": False,  # a `$` is a `$`
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 9,
}


def bars(
    values: Mapping[str, int], *, words: Sequence[str], colours: Sequence[str], title: str, inches_a_bar: float = 0.34
) -> str:
    """Horizontal bars, the first on top, each with its words behind it; `colours` are names of COLOURS."""

    def draw(axes: "Axes") -> None:
        places = range(len(values))
        drawn = axes.barh(places, list(values.values()), color=[COLOURS[name] for name in colours], height=0.62)
        axes.bar_label(drawn, words, padding=4)
        axes.set_yticks(places, list(values))
        axes.invert_yaxis()
        axes.set_xlim(0, max(1, *values.values()) * 1.3)
        axes.set_xticks([])
        axes.spines[["top", "right", "bottom"]].set_visible(False)

    return _drawn(draw, height_inches=0.5 + inches_a_bar * len(values), title=title)


def histogram(
    series: Mapping[str, Sequence[int]], *, edges: Sequence[str], title: str, label: str, marks: Mapping[str, float]
) -> str:
    """Stacked columns between labelled edges, one more than columns; `marks` are one or two lines, in columns."""

    def draw(axes: "Axes") -> None:
        bottoms = [0] * (len(edges) - 1)
        places = [number + 0.5 for number in range(len(bottoms))]
        for name, heights in series.items():
            axes.bar(places, heights, bottom=bottoms, width=0.92, color=COLOURS[name])
            bottoms = [low + high for low, high in zip(bottoms, heights, strict=True)]
        every = 1 + len(edges) // 9
        axes.set_xticks(range(0, len(edges), every), edges[::every])
        axes.set_xlim(0, len(edges) - 1)
        axes.set_ylim(0, max(1, *bottoms) * (1.25 if marks else 1.08))
        axes.yaxis.set_major_locator(_whole_numbers())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.grid(axis="y", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(label)
        axes.set_ylabel("pairs")
        axes.spines[["top", "right", "left"]].set_visible(False)
        for (name, place), side in zip(marks.items(), ("right", "left"), strict=False):
            axes.axvline(place, color=INK, linewidth=0.9)
            offset = (4 if side == "left" else -4, 0)
            at: Any = {"xycoords": ("data", "axes fraction"), "xytext": offset, "textcoords": "offset points"}
            axes.annotate(name, (place, 0.99), ha=side, va="top", **at)

    return _drawn(draw, height_inches=2.5, title=title)


def _whole_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=5, integer=True, min_n_ticks=1)


def _drawn(draw: Callable[["Axes"], None], *, height_inches: float, title: str) -> str:
    # Before the import, which would warn of a home that cannot be written to; it costs a second there, and no more.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    with _own_style():
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        axes = figure.subplots()
        axes.tick_params(length=0)
        draw(axes)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return flattened(svg.getvalue(), classes=CLASSES, title=title)


@contextmanager
def _own_style() -> Iterator[None]:
    """Matplotlib's defaults and ours, whatever a `matplotlibrc` in the current folder says."""
    import matplotlib

    own: Any = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")}
    with matplotlib.rc_context(own | STYLE):
        yield
