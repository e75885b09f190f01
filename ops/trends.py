"""What a month's outcomes say together: counts and percentiles by day and model revision, in memory that stays flat."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LABELS = ("Yes", "No", "Maybe")
STAGES = ("decode_ms", "model_ms")
STEP = 1.02
"""Times are counted in columns that grow by this factor, so a percentile is within 1 % of the exact one."""
P_STEP = 0.001
PERCENTS = (5, 25, 50, 75, 95)
STAGE_PERCENTS = (50, 95)


@dataclass(slots=True)
class Times:
    """Times in milliseconds, counted by columns; at most some thousand of them, whatever the number of times."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, ms: float) -> None:
        """Count one; 0 has a column of its own, below all others."""
        self.counts[math.floor(math.log(ms) / math.log(STEP)) if ms > 0 else -(10**6)] += 1

    def percentile(self, percent: int) -> float | None:
        """Nearest rank, as the middle of its column; None of nothing."""
        column = _ranked(self.counts, percent)
        if column is None:
            return None
        return 0.0 if column == -(10**6) else STEP ** (column + 0.5)


@dataclass(slots=True)
class Tally:
    """Outcomes of one day and one model revision, or of any that were merged."""

    labels: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    cached: int = 0
    probability: float = 0.0  # summed, of the labels that won
    confidence: Counter[int] = field(default_factory=Counter)  # by thousandths
    stages: dict[str, Times] = field(default_factory=lambda: {stage: Times() for stage in STAGES})

    def add(self, fact: Mapping[str, Any]) -> None:
        """Count one outcome: a mapping with db.archive_queries.FACTS. A failure took no model, and has no latency."""
        label = fact["label"]
        if label is None:
            self.failures[str(fact["failure_code"])] += 1
            return
        won = float(fact[f"p_{label.lower()}"])
        self.labels[label] += 1
        self.cached += bool(fact["cached"])
        self.probability += won
        self.confidence[round(won / P_STEP)] += 1
        for stage, times in self.stages.items():
            if fact[stage] is not None:
                times.add(float(fact[stage]))

    def merge(self, other: "Tally") -> None:
        """Count all of another's."""
        self.labels += other.labels
        self.failures += other.failures
        self.cached += other.cached
        self.probability += other.probability
        self.confidence += other.confidence
        for stage, times in self.stages.items():
            times.counts += other.stages[stage].counts

    @property
    def verdicts(self) -> int:
        """Outcomes with a label."""
        return self.labels.total()

    @property
    def outcomes(self) -> int:
        """Verdicts and failures."""
        return self.verdicts + self.failures.total()

    def to_json(self) -> dict[str, Any]:
        """For scripts; names are stable. Shares of labels and of the cache are of the verdicts."""
        verdicts = self.verdicts
        confidence = {f"p{percent}": _probability(self.confidence, percent) for percent in PERCENTS}
        return {
            "outcomes": self.outcomes,
            "verdicts": verdicts,
            "labels": {label: self.labels[label] for label in LABELS},
            "shares": {label: _share(self.labels[label], verdicts) for label in LABELS},
            "failed": self.failures.total(),
            "failed_share": _share(self.failures.total(), self.outcomes),
            "failures": dict(sorted(self.failures.items(), key=lambda one: (-one[1], one[0]))),
            "cached": self.cached,
            "cached_share": _share(self.cached, verdicts),
            "confidence": {"mean": _share(self.probability, verdicts), **confidence},
            **{
                stage: {f"p{percent}": times.percentile(percent) for percent in STAGE_PERCENTS}
                for stage, times in self.stages.items()
            },
        }


@dataclass(slots=True)
class Trend:
    """A month's tallies by day (ISO), model and revision."""

    tallies: dict[tuple[str, str, str], Tally] = field(default_factory=dict)

    def add(self, day: str, fact: Mapping[str, Any]) -> None:
        """Count one outcome of a day."""
        key = (day, str(fact["model"]), str(fact["model_revision"]))
        tally = self.tallies.get(key)
        if tally is None:
            tally = self.tallies[key] = Tally()
        tally.add(fact)

    @property
    def total(self) -> Tally:
        """All of it."""
        whole = Tally()
        for tally in self.tallies.values():
            whole.merge(tally)
        return whole

    def to_json(self) -> dict[str, Any]:
        """`totals`, `revisions` (the most outcomes first) and `days`, each with the same figures."""
        merged: dict[tuple[str, str], Tally] = {}
        for (_, model, revision), tally in self.tallies.items():
            merged.setdefault((model, revision), Tally()).merge(tally)
        ranked = sorted(merged.items(), key=lambda one: (-one[1].outcomes, one[0]))
        days = sorted(self.tallies.items())
        return {
            "totals": self.total.to_json(),
            "revisions": [
                {"model": model, "model_revision": revision, **tally.to_json()} for (model, revision), tally in ranked
            ],
            "days": [
                {"day": day, "model": model, "model_revision": revision, **tally.to_json()}
                for (day, model, revision), tally in days
            ],
        }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Figures of two `totals`, and how they differ; None where one of them has nothing to tell."""
    figures = {
        "outcomes": ("outcomes",),
        **{f"{label.lower()}_share": ("shares", label) for label in LABELS},
        "failed_share": ("failed_share",),
        "cached_share": ("cached_share",),
        "confidence_mean": ("confidence", "mean"),
        "confidence_p5": ("confidence", "p5"),
        **{f"{stage}_p{percent}": (stage, f"p{percent}") for stage in STAGES for percent in STAGE_PERCENTS},
    }
    return {name: _change(_at(before, path), _at(now, path)) for name, path in figures.items()}


def _change(before: float | None, now: float | None) -> dict[str, float | None]:
    difference = None if before is None or now is None else now - before
    return {"before": before, "now": now, "difference": difference}


def _at(told: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = told
    for name in path:
        value = value[name]
    return None if value is None else float(value)


def _probability(confidence: Counter[int], percent: int) -> float | None:
    column = _ranked(confidence, percent)
    return None if column is None else round(column * P_STEP, 3)


def _ranked(counts: Counter[int], percent: int) -> int | None:
    """The column with the value of that percentile's rank."""
    left = -(-counts.total() * percent // 100)
    for column in sorted(counts):
        left -= counts[column]
        if left <= 0:
            return column
    return None


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None
