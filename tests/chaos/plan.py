"""What a run is to be: its pairs, its batches and its faults, all drawn from one seed before anything starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

Fate = Literal["plain", "interrupted", "cancelled"]
PICTURES = 48
PREMISE_EVERY = 8
REPEAT_EVERY = 50
"""So often a pair has the picture and the texts of an earlier one: the cache answers, if it may."""
ORDERS = {
    "stub:kill": "worker_died",
    "stub:segv": "worker_died",
    "stub:abort": "worker_died",
    "stub:exit": "worker_died",
    "stub:hang": "timed_out",
    "stub:sleep=60": "timed_out",
    "stub:nan": "engine_failed",
}
"""Orders to the stub engine, and what a pair with one must end as."""
BAD_PICTURES = {"crash": "decoder_crashed", "stall": "decoder_timeout", "missing": "file_missing"}
SHARES: Sequence[tuple[str, str, str, float, float, Fate]] = (
    # name, lane, tenant, share of all pairs, when it is submitted (share of the minutes), what becomes of it
    ("first", "bulk", "one", 0.25, 0.0, "plain"),
    ("doomed", "bulk", "two", 0.10, 0.0, "cancelled"),
    ("broken-off", "bulk", "one", 0.15, 0.02, "interrupted"),
    ("quick-1", "interactive", "three", 0.01, 0.05, "plain"),
    ("second", "bulk", "two", 0.15, 0.10, "plain"),
    ("quick-2", "interactive", "three", 0.01, 0.18, "interrupted"),
    ("third", "bulk", "one", 0.10, 0.25, "plain"),
    ("quick-3", "interactive", "one", 0.01, 0.35, "plain"),
    ("fourth", "bulk", "three", 0.10, 0.40, "interrupted"),
    ("quick-4", "interactive", "two", 0.01, 0.50, "plain"),
    ("last", "bulk", "two", 0.11, 0.55, "plain"),
)
WEIGHTS = {
    "child_killed": 34,
    "child_paused": 14,
    "worker_killed": 18,
    "main_killed": 12,
    "main_paused": 6,
    "deploy": 14,
    "redis_killed": 10,
    "redis_paused": 10,
    "redis_flushed": 10,
    "redis_wiped": 8,
    "tripled": 14,
    "shuffled": 10,
    "dropped": 12,
    "rubbish": 8,
}
LEDGER_WEIGHTS: Mapping[str, Mapping[str, int]] = {
    "postgresql": {"ledger_killed": 10, "ledger_crashed": 6, "ledger_paused": 10},
    "sqlite": {"ledger_locked": 26},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPair:
    """A row of a manifest; `code` is the failure that it must end as, None where a verdict is due."""

    id: str
    image: str
    caption: str
    premise: str = ""
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBatch:
    """A manifest, when it is submitted (seconds after the start), and what becomes of it meanwhile."""

    name: str
    lane: str
    tenant: str
    at_s: float
    fate: Fate
    pairs: Sequence[PlannedPair]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that the seed decides; `rng` picks victims as they come."""

    seed: int
    batches: Sequence[PlannedBatch]
    faults: Sequence[str]
    mean_gap_s: float
    rng: Random

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return sum(len(batch.pairs) for batch in self.batches)

    @property
    def killers(self) -> int:
        """How many pairs must fail."""
        return sum(pair.code is not None for batch in self.batches for pair in batch.pairs)


def draw_plan(everything: Sequence[PlannedPair], *, seed: int, minutes: float, faults: Sequence[str]) -> Plan:
    """Batches of these pairs, and when each is submitted."""
    batches, start, pairs = list[PlannedBatch](), 0, len(everything)
    for number, (name, lane, tenant, share, at, fate) in enumerate(SHARES):
        end = pairs if number == len(SHARES) - 1 else min(pairs, start + round(share * pairs))
        batches.append(
            PlannedBatch(
                name=name, lane=lane, tenant=tenant, at_s=at * minutes * 60, fate=fate, pairs=everything[start:end]
            )
        )
        start = end
    return Plan(
        seed=seed,
        batches=[batch for batch in batches if batch.pairs],
        faults=faults,
        # What is left of the minutes for each fault; some of it goes into the fault itself.
        mean_gap_s=0.6 * minutes * 60 / max(1, len(faults)),
        rng=Random(f"faults {seed}"),
    )


def draw_faults(*, seed: int, count: int, database: str) -> list[str]:
    """Kinds of faults by their weights, each at least once while there is room, in a drawn order."""
    weights = {**WEIGHTS, **LEDGER_WEIGHTS[database]}
    rng, total = Random(f"order {seed}"), sum(weights.values())
    deck = [kind for kind, weight in weights.items() for _ in range(max(1, weight * count // total))]
    while len(deck) < count:
        deck += rng.choices(list(weights), weights=list(weights.values()))
    rng.shuffle(deck)
    return deck[: max(count, 0)]


def draw_stub_pairs(*, seed: int, count: int, killers: int) -> list[PlannedPair]:
    """Pairs for the stub engine, with `killers` of each kind among them."""
    rng = Random(f"pairs {seed}")
    made: list[PlannedPair] = []
    evil = [*((order, "") for order in ORDERS), *(("", kind) for kind in BAD_PICTURES)] * killers
    places = dict(zip(rng.sample(range(count), min(count, len(evil))), evil, strict=False))
    for number in range(count):
        order, picture = places.get(number, ("", ""))
        if order or picture:
            code = ORDERS.get(order) or BAD_PICTURES[picture]
            image = f"{picture}-{number % 3}.png" if picture else f"{rng.randrange(PICTURES)}.png"
            made.append(PlannedPair(id=f"p{number}", image=image, caption=f"{order} pair {number}".strip(), code=code))
            continue
        earlier = rng.choice(made) if made and rng.randrange(REPEAT_EVERY) == 0 else None
        if earlier is not None and earlier.code is None:
            same = {"image": earlier.image, "caption": earlier.caption, "premise": earlier.premise}
            made.append(PlannedPair(id=f"p{number}", **same))
            continue
        texts = {
            "image": f"{rng.randrange(PICTURES)}.png",
            "caption": f"caption {rng.randrange(10**9)} of {number}",
        }
        premise = f"a premise of {rng.randrange(10**6)}" if number % PREMISE_EVERY == 0 else ""
        made.append(PlannedPair(id=f"p{number}", premise=premise, **texts))
    return made
