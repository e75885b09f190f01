"""A machine's baseline: what judging took when it was measured, kept as AUDIT_HOME/baseline.json to compare with."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from audit.errors import UsageError

FILE = "baseline.json"
VERSION = 1
MOST_BYTES = 100_000
PERCENTS = (50, 95, 99)
NOISE_S = 0.005
"""Times that differ by less than this are not worse, whatever the factor: a busy millisecond is no slow machine."""

Percentiles = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """One measurement. Seconds and bytes; `stages` maps a stage to its `p50`, `p95` and `p99`.

    `samples` says how many measured pairs a stage's percentiles rest on, `pairs` how many were judged in all.
    `pairs_per_second` is that of all slots together, `peak_rss_bytes` that of the largest process,
    `peak_device_bytes` what all processes of one device held.
    """

    made_at: str
    machine: Mapping[str, Any]
    model: str
    revision: str
    precision: str
    engine: str
    load_s: float
    stages: Mapping[str, Percentiles]
    samples: Mapping[str, int]
    pairs: int
    source: str
    pairs_per_second: float
    peak_rss_bytes: int
    peak_device_bytes: int | None
    notes: Sequence[str] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        """For the file and for scripts; names are stable."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, told: Any) -> "Baseline":
        """The inverse; raises ValueError for anything that is no baseline of this version."""
        try:
            if told["version"] != VERSION:
                raise ValueError(f"version {told['version']!r} is not {VERSION}")
            made = cls(**{name: told[name] for name in cls.__dataclass_fields__ if name in told})
            numbers = [made.load_s, made.pairs_per_second, made.peak_rss_bytes]
            numbers += [stage[f"p{percent}"] for stage in made.stages.values() for percent in PERCENTS]
            if not all(math.isfinite(number) and number >= 0 for number in numbers):
                raise ValueError("a figure is not finite, or below 0")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a baseline: {error}") from error
        return made


def read_baseline(home: Path) -> Baseline | None:
    """The saved one; None without one. Raises UsageError (`bad_baseline`) naming the file and the cure."""
    path = home / FILE
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ValueError(f"over {MOST_BYTES} bytes")
        return Baseline.from_json(json.loads(text))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        cure = "remove it, and run `caption-audit baseline` again"
        raise UsageError("bad_baseline", f"{path} is unreadable ({error}): {cure}") from error


def write_baseline(home: Path, made: Baseline) -> Path:
    """Replace the saved one in one step; readable by its owner alone. Raises OSError."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / FILE
    part = path.with_name(f"{FILE}.{os.getpid()}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(json.dumps(made.to_json(), indent=2).encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    return path


def percentiles(times: Sequence[float]) -> Percentiles:
    """Nearest rank: the smallest time that at least so many per cent do not exceed; a time that was measured."""
    ordered = sorted(times)
    return {f"p{percent}": ordered[rank(percent, len(ordered)) - 1] for percent in PERCENTS}


def rank(percent: int, count: int) -> int:
    """The place of a percentile among `count` sorted values, counted from 1; the last one when they are few."""
    return max(1, -(-count * percent // 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One figure then and now. `times` is how many times worse it is now (below 1: better); `worse` beyond the factor.

    `judged` is false where too few pairs were measured for the figure to say anything.
    """

    figure: str
    before: float
    now: float
    times: float
    judged: bool
    worse: bool


def compare(before: Baseline, now: Baseline, *, factor: float) -> list[Compared]:
    """Every figure that both have. A percentile that is the largest of few times is shown, and never called worse."""
    compared = [_time("load_s", before.load_s, now.load_s, factor, judged=True)]
    for stage in before.stages:
        for percent in PERCENTS if stage in now.stages else ():
            name = f"p{percent}"
            counts = [one.samples.get(stage, 0) for one in (before, now)]
            judged = all(rank(percent, count) < count for count in counts)
            pair = before.stages[stage][name], now.stages[stage][name]
            compared.append(_time(f"{stage} {name}", *pair, factor, judged=judged))
    compared.append(
        _figure("pairs_per_second", before.pairs_per_second, now.pairs_per_second, factor, less_is_worse=True)
    )
    compared.append(_figure("peak_rss_bytes", before.peak_rss_bytes, now.peak_rss_bytes, factor))
    if before.peak_device_bytes and now.peak_device_bytes:
        compared.append(_figure("peak_device_bytes", before.peak_device_bytes, now.peak_device_bytes, factor))
    return compared


def differences(before: Baseline, now: Baseline) -> list[str]:
    """What makes the two another measurement than the same one twice, in words."""
    named = ("model", "revision", "precision", "engine", "source")
    pairs = [(name, getattr(before, name), getattr(now, name)) for name in named]
    same = sorted({*before.machine} & {*now.machine})
    pairs += [(name, before.machine[name], now.machine[name]) for name in same]
    return [f"{name} was {old}, and is {new}" for name, old, new in pairs if old != new]


def _time(name: str, before: float, now: float, factor: float, *, judged: bool) -> Compared:
    worse = judged and now > before * factor and now - before > NOISE_S
    return Compared(figure=name, before=before, now=now, times=_ratio(now, before), judged=judged, worse=worse)


def _figure(name: str, before: float, now: float, factor: float, *, less_is_worse: bool = False) -> Compared:
    times = _ratio(before, now) if less_is_worse else _ratio(now, before)
    return Compared(figure=name, before=before, now=now, times=times, judged=True, worse=times > factor)


def _ratio(amount: float, other: float) -> float:
    return amount / other if other > 0 else (1.0 if amount <= 0 else float("inf"))
