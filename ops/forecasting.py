"""The arithmetic of the forecast: from pairs a day to the next months' pairs and workers. Pure, and always the same.

The model is least squares: a level for each weekday and, where it stands out of the noise, so many pairs a day more
each day. Ranges are 80 % prediction intervals of that model, whose days are taken to be independent of each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from statistics import NormalDist
from typing import Any, Literal

Method = Literal["mean", "weekdays", "trend"]
LEAST_FOR_PATTERN = 14
"""Whole days from which weekdays, and a trend, are looked for: each weekday is there twice."""
LEVEL_DAYS = 28
"""Without a trend the last four weeks tell the level."""
TREND_DAYS = 182
STANDS_OUT = 2.0
"""Standard errors that a slope must have from zero to be drawn on."""
CONFIDENCE = 0.8
RESERVE = 0.25
"""As docs/production.md computes workers: for restarts and slow pictures."""
MONTHS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What is expected, and between what 80 % of the cases lie; no bounds where the history tells none."""

    expected: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """One calendar month. `busiest` is of its busiest day: most likely `busiest_day`, None where all are alike."""

    first: date
    days: int
    pairs: Range
    busiest: Range
    busiest_day: date | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """`used` is the number of the last days that it rests on; `slope` is in pairs a day, each day more."""

    method: Method
    used: int
    slope: float
    months: Sequence[Month]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """Least squares on days numbered from `origin`; `spread` is None where no residual is left to tell it."""

    origin: date
    weekdays: bool
    slope: bool
    beta: Any
    inverse: Any  # of X'X
    spread: float | None
    freedom: int


def forecast(history: Sequence[float], *, last_day: date) -> Forecast:
    """`history` is pairs of whole days without a gap, the last one of `last_day`; at least one.

    The months are the three after that of the day after `last_day`.
    """
    count = len(history)
    if count < LEAST_FOR_PATTERN:
        return _forecast("mean", history, last_day, weekdays=False, slope=False)
    drawn = _forecast("trend", history[-TREND_DAYS:], last_day, weekdays=True, slope=True)
    if drawn.slope:
        return drawn
    return _forecast("weekdays", history[-LEVEL_DAYS:], last_day, weekdays=True, slope=False)


def workers_for(pairs: float, *, hours: float, rate: float) -> int:
    """Workers that judge so many pairs in so many hours at `rate` pairs a second each, with the reserve."""
    return math.ceil(pairs / (hours * 3600 * rate) * (1 + RESERVE))


def months_after(day: date) -> list[date]:
    """First days of the three months after the month of `day`, and of the one behind them."""
    firsts = []
    for number in range(1, MONTHS + 2):
        years, month = divmod(day.month - 1 + number, 12)
        firsts.append(date(day.year + years, month + 1, 1))
    return firsts


def _forecast(method: Method, history: Sequence[float], last_day: date, *, weekdays: bool, slope: bool) -> Forecast:
    """With slope 0 when one was asked for and does not stand out: then the rest is not to be used."""
    origin = last_day - timedelta(days=len(history) - 1)
    fit = _fitted(history, origin, weekdays=weekdays, slope=slope)
    steep = _slope(fit) if slope else 0.0
    months: list[Month] = []
    if steep or not slope:
        firsts = months_after(last_day + timedelta(days=1))
        months = [_month(fit, first, behind) for first, behind in pairwise(firsts)]
    return Forecast(method=method, used=len(history), slope=steep, months=months)


def _fitted(history: Sequence[float], origin: date, *, weekdays: bool, slope: bool) -> _Fit:
    import numpy as np

    bare = _Fit(origin=origin, weekdays=weekdays, slope=slope, beta=None, inverse=None, spread=None, freedom=0)
    design = np.array([_row(bare, origin + timedelta(days=number)) for number in range(len(history))])
    values = np.array(history, dtype=float)
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ values
    freedom = len(values) - design.shape[1]
    left = values - design @ beta
    left[np.abs(left) < 1e-9 * max(1.0, float(np.abs(values).max()))] = 0.0  # what rounding left is no noise
    spread = math.sqrt(float(left @ left) / freedom) if freedom > 0 else None
    return _Fit(
        origin=origin, weekdays=weekdays, slope=slope, beta=beta, inverse=inverse, spread=spread, freedom=freedom
    )


def _row(fit: _Fit, day: date) -> list[float]:
    """The day as the model sees it."""
    row = [float(day.weekday() == number) for number in range(7)] if fit.weekdays else [1.0]
    return [*row, float((day - fit.origin).days)] if fit.slope else row


def _slope(fit: _Fit) -> float:
    """Pairs a day more each day; 0 when it could be chance."""
    steep = float(fit.beta[-1])
    error = (fit.spread or 0.0) * math.sqrt(float(fit.inverse[-1, -1]))
    noise = 1e-9 * max(1.0, float(abs(fit.beta).max()))
    return steep if abs(steep) > max(STANDS_OUT * error, noise) else 0.0


def _month(fit: _Fit, first: date, behind: date) -> Month:
    import numpy as np

    days = [first + timedelta(days=number) for number in range((behind - first).days)]
    rows = np.array([_row(fit, day) for day in days])
    means = [max(0.0, float(value)) for value in rows @ fit.beta]
    most = max(range(len(days)), key=lambda number: (means[number], -number))
    total = sum(means)
    if fit.spread is None:
        pairs = Range(expected=total, low=None, high=None)
        busiest = Range(expected=means[most], low=None, high=None)
    else:
        summed = rows.sum(axis=0)
        width = _student(fit.freedom) * fit.spread * math.sqrt(float(summed @ fit.inverse @ summed) + len(days))
        pairs = Range(expected=total, low=max(0.0, total - width), high=total + width)
        busiest = _busiest(means, fit.spread, _student(fit.freedom) * _error(fit, rows[most]))
    likely = days[most] if len(set(means)) > 1 else None
    return Month(first=first, days=len(days), pairs=pairs, busiest=busiest, busiest_day=likely)


def _busiest(means: Sequence[float], spread: float, error: float) -> Range:
    """The largest of days that vary by `spread`, each for itself, around means that are off by `error` together."""
    low, middle, high = (_level(means, spread, share) for share in (_tail(), 0.5, 1 - _tail()))
    return Range(
        expected=middle,
        low=max(0.0, middle - math.hypot(middle - low, error)),
        high=middle + math.hypot(high - middle, error),
    )


def _error(fit: _Fit, row: Any) -> float:
    """Standard error of the mean of a day."""
    return (fit.spread or 0.0) * math.sqrt(float(row @ fit.inverse @ row))


def _level(means: Sequence[float], spread: float, share: float) -> float:
    """What the largest of independent normal days stays below in `share` of the cases."""
    if not spread:
        return max(means)
    normal = NormalDist()
    low, high = 0.0, max(means) + 10 * spread
    for _ in range(80):  # halves the interval below what a double can tell apart
        level = (low + high) / 2
        below = math.prod(normal.cdf((level - mean) / spread) for mean in means)
        low, high = (low, level) if below >= share else (level, high)
    return high


def _tail() -> float:
    return (1 - CONFIDENCE) / 2


def _student(freedom: int) -> float:
    """Student's quantile for the range.

    Cornish and Fisher's expansion (Abramowitz and Stegun 26.7.5): at 80 % within 4 % of the true value, and within
    0.1 % from three degrees of freedom on.
    """
    z = NormalDist().inv_cdf(1 - _tail())
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / float(freedom**power) for power, term in enumerate(terms, start=1))
