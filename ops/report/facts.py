"""A batch's numbers, as the report shows them and as scripts read them."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from db.queries import Progress
from db.report_queries import CONFIDENCE_EDGES, MS_EDGES, PERCENTILES, STAGES, Answer, Rows
from ops.text import iso

LABELS = ("Yes", "No", "Maybe")
MS_BOUNDS = (0.0, *MS_EDGES, math.inf)
CONFIDENCE_BOUNDS = (1 / 3, *CONFIDENCE_EDGES, 1.0)
COUNTS = ("submitted", "yes", "no", "maybe", "failed", "flagged", "cancelled", "remaining")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """How long one stage took: pairs a bin of MS_BOUNDS, and percentiles; empty when nothing was timed."""

    pairs: int
    mean_ms: float
    most_ms: float
    percentiles_ms: Mapping[int, float]
    bins: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the ledger answered about a batch. Counts are of one moment; `seen` was asked just before.

    `written_at` is in seconds since the epoch.
    """

    seen: Progress
    answers: Mapping[str, Answer]
    written_at: float

    def rows(self, name: str) -> Rows:
        """What one statement gave."""
        return self.answers[name].rows

    @cached_property
    def counts(self) -> dict[str, int]:
        """Of pairs: submitted = yes + no + maybe + failed + cancelled + remaining."""
        (row,) = self.rows("counts")
        return {name: int(row[name]) for name in COUNTS}

    @property
    def verdicts(self) -> int:
        """Pairs with a label."""
        return sum(self.counts[label.lower()] for label in LABELS)

    @property
    def cached(self) -> int:
        """Verdicts that were taken from the cache."""
        return sum(int(row["cached"]) for row in self.rows("judged_with"))

    @property
    def partial(self) -> bool:
        """Whether numbers may still change."""
        return not self.seen.finished

    @cached_property
    def confidence(self) -> dict[str, list[int]]:
        """Label -> pairs a bin of CONFIDENCE_BOUNDS, by the probability of the label that won."""
        bins = {label: [0] * (len(CONFIDENCE_BOUNDS) - 1) for label in LABELS}
        for row in self.rows("confidence"):
            bins[row["label"]][int(row["bin"])] = int(row["pairs"])
        return bins

    @cached_property
    def stages(self) -> dict[str, StageTimes]:
        """Stage -> its times."""
        return {stage: self._stage(stage) for stage in STAGES}

    def _stage(self, stage: str) -> StageTimes:
        (row,) = self.rows(f"{stage}_times")
        bins = [0] * (len(MS_BOUNDS) - 1)
        for line in self.rows(f"{stage}_histogram"):
            bins[int(line["bin"])] = int(line["pairs"])
        return StageTimes(
            pairs=int(row["pairs"]),
            mean_ms=float(row["mean"] or 0.0),
            most_ms=float(row["most"] or 0.0),
            percentiles_ms={percent: float(row[f"p{percent}"] or 0.0) for percent in PERCENTILES},
            bins=bins,
        )

    def to_json(self) -> dict[str, Any]:
        """For scripts; names are stable."""
        seen = self.seen
        return {
            "batch": seen.batch,
            "name": seen.name,
            "state": seen.state,
            "partial": self.partial,
            "written_at": iso(self.written_at),
            "counts": self.counts,
            "cached": self.cached,
            "judged_with": [dict(row) for row in self.rows("judged_with")],
            "confidence": {"bounds": CONFIDENCE_BOUNDS, "pairs": self.confidence},
            "stages": {name: _stage_json(stage) for name, stage in self.stages.items()},
            "flags": {row["flag"]: int(row["pairs"]) for row in self.rows("flags")},
            "failures": {row["failure_code"]: int(row["pairs"]) for row in self.rows("failures")},
            "failure_samples": [dict(row) for row in self.rows("failure_samples")],
            "flagged_pairs": [dict(row) for row in self.rows("flagged")],
            "sql": {name: answer.sql for name, answer in self.answers.items()},
        }


def place_of(ms: float) -> float:
    """Where a time stands among MS_BOUNDS, in columns; between two bounds by its logarithm."""
    number = min(bisect_right(MS_EDGES, ms), len(MS_BOUNDS) - 2)
    low, high = MS_BOUNDS[number], MS_BOUNDS[number + 1]
    if low <= 0 or math.isinf(high):
        return number + 0.5
    return number + math.log(ms / low) / math.log(high / low)


def _stage_json(stage: StageTimes) -> dict[str, Any]:
    bounds = [None if math.isinf(bound) else bound for bound in MS_BOUNDS]
    percentiles = {f"p{percent}_ms": value for percent, value in stage.percentiles_ms.items()}
    same = {"pairs": stage.pairs, "mean_ms": stage.mean_ms, "most_ms": stage.most_ms}
    return {**same, **percentiles, "bounds_ms": bounds, "bins": list(stage.bins)}
