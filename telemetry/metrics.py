"""Every counter and histogram, by name. prometheus-client writes them to files, one for each place in the pool.

A replacement goes on with the file of its predecessor, so that files do not pile up and nothing counted is forgotten.
Without `keep_in` (tests, commands) they live in this process's memory alone.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.values import MultiProcessValue, MutexValue

from audit.policy import Policy
from audit.verdict import Failure, Outcome

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
WAITS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0)
SHARES = (0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = (8, 16, 24, 32, 48, 64, 80)

_place = "none"


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


def exposition() -> bytes:
    """All that was counted, in Prometheus' text format."""
    meters()
    return generate_latest(_registry())


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
        model_load_seconds=histogram("model_load_seconds", "Loading and proving the model.", SECONDS),
    )


def keep_in(folder: Path, *, place: str) -> None:
    """From now on, in this process and in those it forks, to files in `folder`; before anything is counted."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # where prometheus-client looks for it
    values.ValueClass = MultiProcessValue(process_identifier=lambda: _place)  # type: ignore[no-untyped-call]  # theirs
    meters.cache_clear()
    _registry.cache_clear()
    take_place(place)


def forget_folder() -> None:
    """Count in this process's memory again."""
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    values.ValueClass = MutexValue
    meters.cache_clear()
    _registry.cache_clear()


def take_place(place: str) -> None:
    """Whose file this process writes to: nobody else may have the place now."""
    global _place  # noqa: PLW0603 - prometheus-client asks a function without arguments
    _place = place


def count_outcomes(outcomes: Iterable[Outcome], *, policy: Policy) -> None:
    """Count what has just been recorded."""
    told = meters()
    for outcome in outcomes:
        result = outcome.result
        if isinstance(result, Failure):
            told.failures.labels(result.code).inc()
        else:
            label = result.scores.label
            told.verdicts.labels(label.value).inc()
            told.confidence.labels(label.value).observe(
                max(result.scores.p_yes, result.scores.p_no, result.scores.p_maybe)
            )
            if policy.flags(result):
                told.flagged.inc()
            told.cache_lookups.labels("hit" if outcome.cached else "miss").inc()
        for measured, name in (("decode", "preprocess"), ("model", "inference")):
            if (took_ms := outcome.stage_ms.get(measured)) is not None:
                told.stage_seconds.labels(name).observe(took_ms / 1000)
        for flag in outcome.flags:
            told.image_flags.labels(flag).inc()
