"""The forecast's arithmetic, on made-up histories: what is exact must be exact, and what is not must say how far."""

import math
import random
from datetime import date, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.forecasting import RESERVE, Forecast, forecast, months_after, workers_for

LAST = date(2026, 11, 20)
days = st.dates(date(2020, 1, 1), date(2040, 12, 31))
loads = st.integers(0, 10_000_000)
histories = st.lists(loads, min_size=1, max_size=60)


def made(history: list[float], last_day: date = LAST) -> Forecast:
    return forecast(history, last_day=last_day)


def level(day: date, levels: list[int], slope: int) -> float:
    return levels[day.weekday()] + slope * ((day - LAST).days + 1000)


@given(st.lists(loads, min_size=7, max_size=7), st.integers(-5_000, 5_000), st.integers(14, 80))
def test_a_trend_with_weekdays_and_no_noise_goes_on_exactly(levels: list[int], slope: int, count: int) -> None:
    """What is asked of a line is that it is met: every month is the sum of its days, and no day is below nothing."""
    history = [level(LAST - timedelta(days=ago), levels, slope) for ago in reversed(range(count))]
    seen = made(history)
    assert seen.method == ("trend" if slope else "weekdays")
    scale = max(1.0, *map(abs, history)) + abs(slope) * 200
    assert seen.slope == pytest.approx(slope, abs=1e-6 * scale)
    for month in seen.months:
        due = [max(0.0, level(month.first + timedelta(days=n), levels, slope)) for n in range(month.days)]
        assert month.pairs.expected == pytest.approx(sum(due), abs=1e-5 * scale)
        assert month.busiest.expected == pytest.approx(max(due), abs=1e-5 * scale)


@given(histories, days)
def test_ranges_surround_what_is_expected_and_nothing_is_negative(history: list[float], last_day: date) -> None:
    """A range that leaves its own middle out, or a month of fewer than no pairs, would be nonsense."""
    seen = made(history, last_day)
    assert len(seen.months) == 3
    assert seen == made(history, last_day)
    for month in seen.months:
        for one in (month.pairs, month.busiest):
            assert math.isfinite(one.expected)
            assert one.expected >= 0
            if len(history) == 1:
                assert (one.low, one.high) == (None, None)
            else:
                assert one.low is not None
                assert one.high is not None
                assert 0 <= one.low <= one.expected + 1e-6
                assert one.expected <= one.high + 1e-6
        assert month.busiest.expected * month.days >= month.pairs.expected * (1 - 1e-9)


@given(st.lists(loads, min_size=1, max_size=13))
def test_less_than_two_weeks_draw_no_trend(history: list[float]) -> None:
    """Ten days that happen to rise would forecast an explosion; their mean does not."""
    seen = made(history)
    assert (seen.method, seen.slope, seen.used) == ("mean", 0.0, len(history))
    for month in seen.months:
        assert month.pairs.expected == pytest.approx(month.days * sum(history) / len(history), rel=1e-9, abs=1e-6)
        assert month.busiest_day is None


@given(st.lists(loads, min_size=1, max_size=40), st.integers(2, 1000))
def test_a_load_times_k_has_a_forecast_times_k(history: list[float], k: int) -> None:
    """The unit must not matter: thousands of pairs, or pairs."""
    once, often = made(history), made([k * pairs for pairs in history])
    if often.method != once.method:
        return  # a slope exactly at the threshold may round to either side
    for small, large in zip(once.months, often.months, strict=True):
        close = 1e-5 * k * max(1.0, *history)
        assert large.pairs.expected == pytest.approx(k * small.pairs.expected, rel=1e-6, abs=close)
        assert large.busiest.expected == pytest.approx(k * small.busiest.expected, rel=1e-6, abs=close)


def test_noise_is_no_trend_and_a_trend_in_noise_is_one() -> None:
    """Chance must not order workers for next quarter, and growth must not be taken for chance."""
    rng = random.Random(7)
    flat = [10_000 + rng.gauss(0, 1_000) for _ in range(120)]
    rising = [pairs + 50 * number for number, pairs in enumerate(flat)]
    assert (made(flat).method, made(flat).used) == ("weekdays", 28)
    seen = made(rising)
    assert (seen.method, seen.used) == ("trend", 120)
    assert seen.slope == pytest.approx(50, rel=0.2)


def test_eight_of_ten_histories_go_on_inside_of_the_range() -> None:
    """The range says 80 %: counted on 200 histories with weekdays, growth and noise, and on their busiest days."""
    rng = random.Random(11)
    sums = peaks = 0
    for _ in range(200):
        everything = [5_000 + 3_000 * (n % 7 < 5) + 20 * n + rng.gauss(0, 800) for n in range(90 + 41)]
        seen = made(everything[:90], LAST)
        month = seen.months[0]
        begins = 90 + (month.first - LAST).days - 1
        coming = everything[begins : begins + month.days]
        sums += bool(month.pairs.low and month.pairs.high and month.pairs.low <= sum(coming) <= month.pairs.high)
        peak = max(coming)
        peaks += bool(month.busiest.low and month.busiest.high and month.busiest.low <= peak <= month.busiest.high)
    assert 140 <= sums <= 180
    assert 140 <= peaks <= 180


@given(st.floats(0, 1e9), st.floats(0.1, 24), st.floats(0.001, 1e4))
def test_workers_are_the_fewest_that_suffice_with_a_quarter_in_reserve(pairs: float, hours: float, rate: float) -> None:
    """docs/production.md computes the same by hand."""
    needed = workers_for(pairs, hours=hours, rate=rate)
    a_worker = hours * 3600 * rate
    assert needed * a_worker >= pairs * (1 + RESERVE) * (1 - 1e-12)
    assert (needed - 1) * a_worker < pairs * (1 + RESERVE) or needed == 0
    assert (needed == 0) == (pairs == 0)


def test_the_example_of_the_guide_is_computed_as_there() -> None:
    """1,000,000 pairs in 8 hours at 0.4 a second and core are 109 cores, and one GPU of 100 a second is enough."""
    assert workers_for(1_000_000, hours=8, rate=0.4) == 109
    assert workers_for(1_000_000, hours=8, rate=100) == 1


@given(days)
def test_months_are_the_three_whole_ones_to_come(day: date) -> None:
    """Also across the end of a year."""
    firsts = months_after(day)
    assert [first.day for first in firsts] == [1] * 4
    assert all((behind - first).days in (28, 29, 30, 31) for first, behind in pairwise(firsts))
    assert 0 < (firsts[0] - day).days <= 31
