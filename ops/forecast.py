"""The command forecast: the next three months' load from the ledger's history, and the workers it needs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.errors import Permanent
from ops.arguments import JsonOption, examples, ledger
from ops.text import counted, iso, one_line

if TYPE_CHECKING:
    from db.load_queries import Load
    from ops.forecasting import Forecast, Month, Range

HISTORY_DAYS = 400
WORK_DAYS = 28
LEAST_PAIRS = 1_000
"""Pairs from which the ledger's own speed is believed before a baseline's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Pairs a second of one worker, where it is from (`option`, `ledger`, `baseline`), and that in words."""

    pairs_per_second: float
    source: str
    told: str


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "caption-audit forecast",
            "caption-audit forecast --hours 24 --rate 95",
            "caption-audit forecast --json | jq '.months[] | [.month, .workers.expected]'",
        )
    )(forecast)


def forecast(
    *,
    hours: Annotated[float, typer.Option(min=0.1, max=24, help="Hours in which a day's pairs are to be judged.")] = 8.0,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=1e6, help="Pairs a second of a worker. Default: the ledger's, else the baseline's."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Forecast the pairs of the next three months, and the workers that their busiest days need.

    From the pairs submitted on each whole day (UTC): with two weeks of history a level for each weekday, and a trend
    where one stands out of the noise; with less, their mean. Ranges hold in 8 of 10 cases if the days to come are like
    those behind. workers = pairs of the busiest day / (hours x 3600 x rate) x 1.25, rounded up.
    """
    from db.load_queries import load

    with ledger() as (settings, database):
        seen = load(database, days=HISTORY_DAYS, work_days=WORK_DAYS)
    if not seen.days:
        raise Permanent("no_history", "no batch is older than today: there is no whole day to draw on yet")
    chosen = _rate(rate, seen, settings.home)
    from ops.forecasting import forecast as forecast_of

    made = forecast_of([sum(day.submitted.values()) for day in seen.days], last_day=seen.days[-1].day)
    told = to_json(seen, made, chosen, hours=hours)
    if as_json:
        from ops.show import print_json

        print_json(told)
        return
    print("\n".join(_lines(told, made)))


def to_json(seen: "Load", made: "Forecast", rate: Rate | None, *, hours: float) -> dict[str, Any]:
    """For scripts; names are stable."""
    from ops.forecasting import CONFIDENCE, RESERVE

    lanes: dict[str, int] = {}
    for day in seen.days:
        for lane, pairs in day.submitted.items():
            lanes[lane] = lanes.get(lane, 0) + pairs
    return {
        "made_at": iso(seen.now),
        "history": {
            "days": len(seen.days),
            "first_day": seen.days[0].day.isoformat(),
            "last_day": seen.days[-1].day.isoformat(),
            "submitted": sum(lanes.values()),
            "by_lane": dict(sorted(lanes.items())),
            "judged": sum(day.judged for day in seen.days),
            "waiting": seen.waiting,
            "daily": [{**asdict(day), "day": day.day.isoformat()} for day in seen.days],
        },
        "method": made.method,
        "why": _why(len(seen.days), made),
        "used_days": made.used,
        "more_each_week": 7 * made.slope,
        "range": CONFIDENCE,
        "rate": None if rate is None else asdict(rate),
        "hours": hours,
        "reserve": RESERVE,
        "work": [asdict(work) for work in seen.work],
        "months": [_month_json(month, rate, hours) for month in made.months],
    }


def _month_json(month: "Month", rate: Rate | None, hours: float) -> dict[str, Any]:
    return {
        "month": f"{month.first:%Y-%m}",
        "days": month.days,
        "pairs": asdict(month.pairs),
        "busiest_day": {"day": month.busiest_day and month.busiest_day.isoformat(), **asdict(month.busiest)},
        "workers": None if rate is None else _workers(month.busiest, rate, hours),
    }


def _workers(busiest: "Range", rate: Rate, hours: float) -> dict[str, int | None]:
    from ops.forecasting import workers_for

    needed = asdict(busiest).items()
    return {
        name: None if pairs is None else workers_for(pairs, hours=hours, rate=rate.pairs_per_second)
        for name, pairs in needed
    }


def _why(days: int, made: "Forecast") -> str:
    from ops.forecasting import LEAST_FOR_PATTERN

    have = f"{counted(days, 'whole day')} of history"
    if made.method == "mean":
        few = f"{have}, and no trend is drawn from less than {LEAST_FOR_PATTERN}: every day is taken to be their mean"
        return f"{few}; one day tells no range" if days == 1 else few
    if made.method == "weekdays":
        return f"{have}; no trend stands out, so each weekday is taken to be as in the last {made.used} days"
    return f"{have}; a level for each weekday and a trend, from the last {made.used}"


def _rate(option: float | None, seen: "Load", home: Path) -> Rate | None:
    """The best that is known, with its source; None when nothing is. Raises UsageError for an unreadable baseline."""
    from audit.baseline import read_baseline

    if option is not None:
        return Rate(pairs_per_second=option, source="option", told="as --rate says")
    known = _of_ledger(seen)
    if known is not None and sum(work.pairs for work in seen.work) >= LEAST_PAIRS:
        return known
    saved = read_baseline(home)
    if saved is not None:
        told = (
            f"the baseline of {saved.made_at} with {saved.model}, of {counted(saved.machine.get('slots', 1), 'slot')}"
        )
        return Rate(pairs_per_second=saved.pairs_per_second, source="baseline", told=one_line(told))
    return known


def _of_ledger(seen: "Load") -> Rate | None:
    """What a slot did while it held a chunk, times the slots of a worker; what the cache answered counts, too."""
    pairs, seconds = sum(work.pairs for work in seen.work), sum(work.slot_s for work in seen.work)
    if not pairs or seconds <= 0:
        return None
    slots = seen.slots_a_worker or 1.0
    of = "" if len(seen.work) == 1 else f" with {len(seen.work)} models"
    seen_none = "" if seen.slots_a_worker else ", since no worker was seen"
    told = (
        f"{counted(pairs, 'pair')}{of} judged in the last {seen.work_days} days: {pairs / seconds:.1f} a second and "
        f"slot, times {slots:.3g} slot{'s' * (slots != 1)} a worker{seen_none}"
    )
    return Rate(pairs_per_second=pairs / seconds * slots, source="ledger", told=told)


def _lines(told: Mapping[str, Any], made: "Forecast") -> list[str]:
    history, rate = told["history"], told["rate"]
    lanes = ", ".join(f"{one_line(lane, limit=40)} {pairs:,}" for lane, pairs in history["by_lane"].items())
    pairs = f"{counted(history['submitted'], 'pair')} submitted ({lanes})"
    days = f"{history['first_day']} to {history['last_day']} (UTC)"
    lines = [
        f"history: {days}, {pairs}, {history['judged']:,} judged, {history['waiting']:,} waiting",
        f"method:  {told['why']}",
    ]
    if made.slope:
        lines.append(f"trend:   {made.slope * 7:+,.0f} pairs a day each week")
    if rate is None:
        lines.append("rate:    unknown: give --rate, or run `caption-audit baseline`")
    else:
        lines.append(f"rate:    {rate['pairs_per_second']:.1f} pairs/s a worker ({rate['source']}: {rate['told']})")
    lines += ["", f"{'month':8} {'pairs':>32} {'busiest day':>32}   workers"]
    lines += [_month_line(month) for month in told["months"]]
    lines += ["", "in brackets: where 8 of 10 cases lie, if the days to come are like those behind"]
    if rate is not None:
        lines.append(f"workers: so that the busiest day takes {told['hours']:g} h, with a quarter in reserve")
    return lines


def _month_line(month: Mapping[str, Any]) -> str:
    workers = month["workers"]
    needed = "?" if workers is None else _range(workers)
    return f"{month['month']:8} {_range(month['pairs']):>32} {_range(month['busiest_day']):>32}   {needed}"


def _range(value: Mapping[str, Any]) -> str:
    expected = f"{round(value['expected']):,}"
    if value["low"] is None:
        return f"{expected} (no range)"
    return f"{expected} ({round(value['low']):,} to {round(value['high']):,})"
