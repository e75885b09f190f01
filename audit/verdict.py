"""What becomes of a pair: a verdict or a failure, never both, never neither."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from audit.pair import Row

SUM_TOLERANCE = 1e-4
"""How far three probabilities may be from 1: float32 softmax errs below 1e-6, bfloat16 logits are widened first."""


class Label(StrEnum):
    """The model's answer to: does the picture show what the caption says?"""

    YES = "Yes"
    NO = "No"
    MAYBE = "Maybe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Probabilities of the three labels: finite, in 0..1, summing to 1. Raises ValueError otherwise."""

    p_yes: float
    p_no: float
    p_maybe: float

    def __post_init__(self) -> None:
        values = (self.p_yes, self.p_no, self.p_maybe)
        if not all(math.isfinite(value) and 0.0 <= value <= 1.0 + SUM_TOLERANCE for value in values):
            raise ValueError(f"scores are not probabilities: {values}")
        if abs(math.fsum(values) - 1.0) > SUM_TOLERANCE:
            raise ValueError(f"scores do not sum to 1: {values}")

    @property
    def label(self) -> Label:
        """The most probable label; a tie goes to No, then Maybe, so that doubt is never counted as agreement."""
        ranked = ((self.p_no, Label.NO), (self.p_maybe, Label.MAYBE), (self.p_yes, Label.YES))
        return max(ranked, key=lambda entry: entry[0])[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The model looked at the pair and answered."""

    scores: Scores

    @property
    def label(self) -> Label:
        """The winning label."""
        return self.scores.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The pair could not be judged. `code` is stable and for programs, `detail` is safe to show to people."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything that judging one pair found out; the ledger adds who, when and which batch.

    `flags` name what was accepted with a change (`caption_truncated`, `animated` ...). `stage_ms` maps a stage
    (`decode`, `model`) to milliseconds. `content_key` is the cache key of a verdict, None for failures.
    """

    row: Row
    result: Verdict | Failure
    flags: tuple[str, ...] = ()
    image_sha256: str | None = None
    content_key: str | None = None
    cached: bool = False
    stage_ms: Mapping[str, float] = field(default_factory=dict)
