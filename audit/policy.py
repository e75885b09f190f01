"""The one rule that turns scores into a flag."""

import json
from dataclasses import dataclass

from audit.errors import UsageError
from audit.verdict import Label, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Which verdicts are flagged: those with a label in `labels`, or with p_no of at least `p_no_at_least`.

    The policy is stored with its batch, so that a flag can always be explained.
    """

    labels: frozenset[Label] = frozenset({Label.NO})
    p_no_at_least: float | None = None

    def __post_init__(self) -> None:
        if self.p_no_at_least is not None and not 0.0 <= self.p_no_at_least <= 1.0:
            raise UsageError("bad_policy", f"the p_no threshold is {self.p_no_at_least}; it must be from 0 to 1")

    def flags(self, verdict: Verdict) -> bool:
        """Whether this verdict is to be shown to a person as a mismatch."""
        if verdict.label in self.labels:
            return True
        return self.p_no_at_least is not None and verdict.scores.p_no >= self.p_no_at_least

    def to_json(self) -> str:
        """A canonical text: equal policies give equal texts."""
        return json.dumps({"labels": sorted(self.labels), "p_no_at_least": self.p_no_at_least}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Policy":
        """The inverse of to_json."""
        value = json.loads(text)
        return cls(labels=frozenset(Label(name) for name in value["labels"]), p_no_at_least=value["p_no_at_least"])
