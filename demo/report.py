"""Tables of right and wrong answers, as Markdown."""

from collections import Counter
from collections.abc import Mapping, Sequence

from demo.captions import LABELS

Given = Sequence[tuple[str, str]]
"""Pairs of (the right label, the answer)."""


def percent(given: Given) -> str:
    """Return the share of right answers."""
    return f"{100 * sum(label == answer for label, answer in given) / len(given):.1f} %" if given else "-"


def summary(trials: Mapping[str, Given]) -> str:
    """Return one line a trial: pairs, right overall and by label."""
    lines = ["| | pairs | right | " + " | ".join(f"of {label}" for label in LABELS) + " |", _rule(3 + len(LABELS))]
    for name, given in trials.items():
        by_label = [percent([pair for pair in given if pair[0] == label]) for label in LABELS]
        lines.append(f"| {name} | {len(given)} | **{percent(given)}** | " + " | ".join(by_label) + " |")
    return "\n".join(lines)


def confusion(given: Given) -> str:
    """Return the confusion matrix: a row for each right label, a column for each answer."""
    counts = Counter(given)
    lines = ["| right label | " + " | ".join(f"answered {label}" for label in LABELS) + " | right |"]
    lines.append(_rule(2 + len(LABELS)))
    for label in LABELS:
        cells = " | ".join(str(counts[label, answer]) for answer in LABELS)
        lines.append(f"| {label} | {cells} | {percent([pair for pair in given if pair[0] == label])} |")
    return "\n".join(lines)


def shares(given: Sequence[tuple[str, str, str]]) -> str:
    """Return one line for each first entry of (what, right label, answer): pairs, right overall and by label."""
    names = sorted({name for name, _, _ in given})
    return summary({name: [(label, answer) for what, label, answer in given if what == name] for name in names})


def _rule(columns: int) -> str:
    return "|" + "---|" * columns
