"""Every counter and histogram, by name. A worker's processes count in memory that they share (telemetry/places.py).

Without `share` (tests, commands) they live in this process's memory alone.
"""

import os
from collections import Counter as Sums
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, values
from prometheus_client.values import MutexValue

from audit.policy import Policy
from audit.verdict import Failure, Label, Outcome
from telemetry.places import Counted, Places, value_class

SECONDS = (
    *(0.000125, 0.00025, 0.0005, 0.001, 0.0015, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5),
    *(1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0),
)
"""No bound is over twice the one before it: a percentile is read as if the times lay evenly between the two, and a
stage as fast as its baseline must not seem twice as slow."""
WAITS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0)
SHARES = (0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
LOADS = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
TOKENS = (8, 16, 24, 32, 48, 64, 80)

MAIN = -1
"""The place of a worker's main process; the others have their slot's number."""

_places: Places | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Meters:
    """All that is counted; the help texts say what each means."""

    verdicts: Counter
    failures: Counter
    flagged: Counter
    cache_lookups: Counter
    images: Counter
    image_flags: Counter
    chunks: Counter
    chunks_resent: Counter
    chunks_parked: Counter
    leases_lost: Counter
    fenced_writes: Counter
    recycles: Counter
    restarts: Counter
    out_of_device_memory: Counter
    model_load_failures: Counter
    errors: Counter
    canaries: Counter
    breaker_opened: Counter
    queue_wait_seconds: Histogram
    stage_seconds: Histogram
    confidence: Histogram
    micro_batch_pairs: Histogram
    caption_tokens: Histogram
    model_load_seconds: Histogram


@cache
def _registry() -> CollectorRegistry:
    return CollectorRegistry()


@cache
def meters() -> Meters:
    """The process's own, made at the first call."""
    registry = _registry()

    def counter(name: str, told: str, *labels: str) -> Counter:
        return Counter(f"caption_audit_{name}", told, labels, registry=registry)

    def histogram(name: str, told: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(f"caption_audit_{name}", told, labels, buckets=tuple(buckets), registry=registry)

    return Meters(
        verdicts=counter("verdicts", "Pairs judged, recorded.", "label"),
        failures=counter("failures", "Pairs that could not be judged, recorded.", "code"),
        flagged=counter("flagged", "Verdicts that their batch's policy flags."),
        cache_lookups=counter("cache_lookups", "Pairs looked up in the cache.", "result"),
        images=counter("images", "Pictures decoded.", "format"),
        image_flags=counter("image_flags", "Outcomes with this flag.", "flag"),
        chunks=counter("chunks", "Chunks that a process has had in hand, by how it ended.", "ending"),
        chunks_resent=counter("chunks_resent", "Messages sent again because nobody claimed them.", "lane"),
        chunks_parked=counter("chunks_parked", "Chunks set aside after too many deaths."),
        leases_lost=counter("leases_lost", "Chunks that another process took over while one was at work."),
        fenced_writes=counter("fenced_writes", "Results that came too late and were not written."),
        recycles=counter("recycles", "Pool processes replaced as they should be.", "reason"),
        restarts=counter("restarts", "Pool processes replaced because they died or were killed.", "reason"),
        out_of_device_memory=counter("out_of_device_memory", "Passes that did not fit the device.", "ended"),
        model_load_failures=counter("model_load_failures", "Loads of the model that failed."),
        errors=counter("errors", "Log lines of level ERROR or CRITICAL.", "stage"),
        canaries=counter("canaries", "Questions with known answers, asked of a loaded model.", "result"),
        breaker_opened=counter("breaker_opened", "Places of pictures found to be away."),
        queue_wait_seconds=histogram(
            "queue_wait_seconds", "From a chunk's message being sent to its claim.", WAITS, "lane"
        ),
        stage_seconds=histogram(
            "stage_seconds", "A pair's preprocess and inference; a chunk's claim and record.", SECONDS, "stage"
        ),
        confidence=histogram("confidence", "Probability of the label that won.", SHARES, "label"),
        micro_batch_pairs=histogram("micro_batch_pairs", "Pairs judged in one pass.", POWERS),
        caption_tokens=histogram("caption_tokens", "Tokens of a question, as the model reads it.", TOKENS),
        model_load_seconds=histogram("model_load_seconds", "Loading and proving the model.", LOADS),
    )


def share(slots: int) -> None:
    """From now on what this process and its pool processes count lies in memory that they share.

    To be called in the main process, before its first fork and before anything is counted. Raises OSError when there
    is no memory for it: what is counted is then seen by nobody, and nothing else changes.
    """
    global _places  # noqa: PLW0603 - prometheus-client keeps its numbers in a class, of which there is one a process
    try:
        _places = Places(slots + 1)
    except OverflowError as error:
        raise OSError(str(error)) from None
    os.register_at_fork(after_in_child=_count_for_itself)
    take_place(MAIN)


def take_place(number: int) -> bool:
    """Go on counting where the last process with this place stopped: MAIN, or a slot's number.

    Nobody else may have the place now. False when what was counted there before could not be read to its end.
    """
    if _places is None:
        return True
    place = _places.place(number + 1)
    _count_in(value_class(place))
    return place.is_whole


def totals() -> dict[Counted, float] | None:
    """All that every process of this worker has counted; None when this process counts for itself."""
    return None if _places is None else _places.totals()


def instruments() -> Iterator[Counter | Histogram]:
    """Each of the meters."""
    yield from (getattr(meters(), field.name) for field in fields(Meters))


def had_no_room() -> bool:
    """Whether something was not counted for want of room."""
    return _places is not None and _places.had_no_room()


def start_at_zero(known: Mapping[str, Iterable[str]]) -> None:
    """Make a series of each of these labels, by the name of its meter: a rate needs a zero before the first event."""
    for name, labels in known.items():
        for label in labels:
            getattr(meters(), name).labels(label)


def forget_places() -> None:
    """Count in this process's memory again."""
    global _places  # noqa: PLW0603 - as in share()
    _places = None
    _count_for_itself()


def _count_for_itself() -> None:
    """In a fork, until it takes a place: the main process's is not its own, and its locks may be held."""
    _count_in(MutexValue)


def _count_in(kind: type) -> None:
    values.ValueClass = kind
    meters.cache_clear()
    _registry.cache_clear()


def count_outcomes(outcomes: Iterable[Outcome], *, policy: Policy) -> None:
    """Count what has just been recorded."""
    told = meters()
    # Sums first: what takes a thousandth of a pair's time on a CPU takes a hundredth on a fast GPU.
    failures, verdicts, flags, cached = Sums[str](), Sums[str](), Sums[str](), Sums[str]()
    flagged = 0
    confidence = {label.value: told.confidence.labels(label.value) for label in Label}
    stages = [(at, told.stage_seconds.labels(name)) for at, name in (("decode", "preprocess"), ("model", "inference"))]
    for outcome in outcomes:
        result = outcome.result
        if isinstance(result, Failure):
            failures[result.code] += 1
        else:
            scores = result.scores
            label = scores.label.value
            verdicts[label] += 1
            confidence[label].observe(max(scores.p_yes, scores.p_no, scores.p_maybe))
            flagged += policy.flags(result)
            cached["hit" if outcome.cached else "miss"] += 1
        for measured, seconds in stages:
            if (took_ms := outcome.stage_ms.get(measured)) is not None:
                seconds.observe(took_ms / 1000)
        flags.update(outcome.flags)
    told.flagged.inc(flagged)
    for sums, counter in (
        (failures, told.failures),
        (verdicts, told.verdicts),
        (flags, told.image_flags),
        (cached, told.cache_lookups),
    ):
        for name, count in sums.items():
            counter.labels(name).inc(count)
