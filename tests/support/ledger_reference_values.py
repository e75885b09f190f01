"""What the ledger's reference (ledger_reference.py) holds: batches, their chunks, and what became of their pairs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.support.row_fates import Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What became of a pair: a label or a failure's code, and by whom."""

    told: str
    attempt: int
    worker: str

    @property
    def is_verdict(self) -> bool:
        return self.told in ("Yes", "No", "Maybe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """Somebody who claims: a process, by its name, and the slot that it works at."""

    name: str
    slot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """How a worker ended: `died`, `stuck` or `let_go`; whether surely by its own doing; and the rows in its hand."""

    cause: str
    certain: bool
    hand: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A pair at which workers died: how often, where last, and when."""

    deaths: int
    slot: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a claim hands out."""

    batch: str
    chunk: int
    token: int
    attempt: int
    careful: bool
    rows: tuple[int, ...]
    suspects: frozenset[int]
    retried: frozenset[int]
    left_out: frozenset[int]
    slot: str


@dataclass(slots=True, kw_only=True)
class Chunk:
    """Some rows, and who works on them."""

    rows: range
    state: str
    attempts: int = 0
    deaths: int = 0
    sends: int = 0
    sent_at: int = 0
    fenced: int = 0
    token: int | None = None
    worker: Worker = Worker(name="", slot="")
    hand: tuple[int, int] | None = None
    claimed: bool = False
    until: int | None = None
    done_at: int | None = None
    marker: tuple[int, str] | None = None


@dataclass(slots=True, kw_only=True)
class Batch:
    """Pairs and what became of them."""

    model: str
    lane: str
    tenant: str
    priority: int
    lines: Sequence[Line]
    chunk_pairs: int
    state: str = "registering"
    chunks: dict[int, Chunk] = field(default_factory=dict)
    pairs: set[int] = field(default_factory=set)
    outcomes: dict[int, Ending] = field(default_factory=dict)
    suspects: dict[int, Suspect] = field(default_factory=dict)
    retries: set[int] = field(default_factory=set)
    history: dict[int, list[str]] = field(default_factory=dict)

    def unregistered(self) -> "Batch":
        """The same as it is before any of its rows is there."""
        return Batch(
            model=self.model,
            lane=self.lane,
            tenant=self.tenant,
            priority=self.priority,
            lines=self.lines,
            chunk_pairs=self.chunk_pairs,
        )

    def unjudged(self, chunk: Chunk) -> tuple[int, ...]:
        """Rows without an outcome."""
        return tuple(row for row in chunk.rows if row in self.pairs and row not in self.outcomes)

    def retried(self, chunk: Chunk) -> frozenset[int]:
        """Rows whose failure is to be replaced."""
        return frozenset(self.retries).intersection(chunk.rows)

    def failed(self) -> set[int]:
        """Rows that failed when they were judged, and are not being retried."""
        judged = {row for row, one in self.outcomes.items() if not one.is_verdict and one.attempt}
        return judged - self.retries

    def end(self, row: int, ending: Ending, *, replace: bool) -> None:
        """A pair keeps the outcome that it has, but for a failure that is being retried."""
        if replace and row in self.retries:
            self.retries.remove(row)
            self.history.setdefault(row, []).append(self.outcomes.pop(row).told)
        self.outcomes.setdefault(row, ending)
        self.suspects.pop(row, None)

    def counts(self, rows: Sequence[int]) -> Counter[str]:
        ended = [self.outcomes[row] for row in rows if row in self.outcomes]
        return Counter(ending.told if ending.is_verdict else "failed" for ending in ended)
