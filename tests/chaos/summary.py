"""A run in figures: for people, and for --json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.chaos.watching import Spread


@dataclass(slots=True, kw_only=True)
class Summary:
    """`problems` is empty when every promise held."""

    seed: int
    database: str
    engine: str
    pairs: int
    killers: int
    seconds: float = 0.0
    judged: int = 0
    verdicts: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    cancelled: int = 0
    faults: Mapping[str, int] = field(default_factory=dict)
    counted_faults: int = 0
    missed_faults: int = 0
    workers_ended: Mapping[str, int] = field(default_factory=dict)
    orphans: int = 0
    attempts: int = 0
    fenced: int = 0
    doubles_refused: int = 0
    resent: int = 0
    events: Mapping[str, int] = field(default_factory=dict)
    producer_killed: int = 0
    submits_repeated: int = 0
    revived: int = 0
    excused: list[str] = field(default_factory=list)
    recovery: Mapping[str, Spread] = field(default_factory=dict)
    victims: Spread = field(default_factory=lambda: Spread.of([]))
    longest_pause_s: float = 0.0
    verify: str = "there is no such command"
    unexpected: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a terminal."""
        all_of = self.recovery.get("all", Spread.of([]))
        told = {
            "seed": self.seed,
            "ledger, engine": f"{self.database}, {self.engine}",
            "pairs": f"{self.pairs:,}, {self.killers} of them must fail",
            "took": f"{self.seconds:.0f} s",
            "outcomes": f"{self.judged:,}: {self.verdicts:,} verdicts, failures {_listed(self.failures)}",
            "cancelled": self.cancelled,
            "faults with a chunk running": f"{self.counted_faults}: {_listed(self.faults)}",
            "faults that found nothing to strike": self.missed_faults,
            "workers ended, by status": _listed(self.workers_ended),
            "children that outlived their worker": self.orphans,
            "attempts, fenced writers": f"{self.attempts}, {self.fenced}",
            "doubles refused, messages sent again": f"{self.doubles_refused}, {self.resent}",
            "producer killed, submissions repeated": f"{self.producer_killed}, {self.submits_repeated}",
            "fault to the next outcome": _spread(all_of),
            "kill to the victim's next outcome": _spread(self.victims),
            "longest pause between outcomes": f"{self.longest_pause_s} s",
            "parked chunks revived": self.revived,
            "killers that our own kill named": len(self.excused),
            "caption-audit verify": self.verify,
            "unexpected lines in the logs": len(self.unexpected),
        }
        kinds = [f"    {kind:18} {_spread(spread)}" for kind, spread in self.recovery.items() if kind != "all"]
        events = [f"    {name:60} {count}" for name, count in sorted(self.events.items())]
        head = [f"  {what:40} {value}" for what, value in told.items()]
        return [*head, "  fault to the next outcome, by kind", *kinds, "  of the workers' logs", *events]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _spread(spread: Spread) -> str:
    return f"median {spread.median_s} s, 95 % {spread.p95_s} s, most {spread.most_s} s ({spread.count})"
