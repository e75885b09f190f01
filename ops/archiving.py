"""A month's outcomes as files, with their trend: read once, written as they come, in memory that stays flat."""

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from audit.errors import Permanent, UsageError
from db.archive_queries import Span, facts_between, outcomes_between, spans_between
from db.codec import COMPACT
from db.engine import Database
from db.exports import OutcomeRow
from ops.archive_folder import check, filled_folder, is_archive, write_file
from ops.arguments import ExportFormat
from ops.exporting import record, record_writer
from ops.report.trend import trend_page
from ops.text import counted, iso
from ops.trends import Trend, changes

TREND = "trend.json"
SETTLED_S = 300.0
"""After a month's end until it counts as over: an outcome may be dated just before it, and committed a little later."""
EVERY = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """A calendar month in UTC, in seconds since the epoch: from `since` to before `until`."""

    name: str
    since: float
    until: float

    def before(self) -> "Month":
        """The month before."""
        return month_of(self.since - 1)

    def is_over(self, now: float) -> bool:
        """Whether nothing is added to it any more."""
        return now >= self.until + SETTLED_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """What is there now. `made` is false where it was there already; `outcomes` 0 means that there is nothing."""

    month: str
    folder: Path
    outcomes: int
    batches: int
    partial: bool
    made: bool


def month_of(seconds: float) -> Month:
    """The month of a moment."""
    return parse_month(datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m"))


def parse_month(text: str) -> Month:
    """`2026-10`; raises UsageError."""
    if not re.fullmatch(r"(19[7-9]\d|[2-9]\d{3})-(0[1-9]|1[0-2])", text):
        raise UsageError("bad_month", f"{text[:40]!r} is no month: write it as 2026-10")
    year, month = int(text[:4]), int(text[5:])
    until = (year + month // 12, month % 12 + 1)
    since_s, until_s = (datetime(*first, 1, tzinfo=UTC).timestamp() for first in ((year, month), until))
    return Month(name=text, since=since_s, until=until_s)


def archive(
    database: Database,
    month: Month,
    *,
    target: Path,
    kind: ExportFormat,
    again: bool,
    now: float,
    show: Callable[[str], None],
) -> Archived:
    """Make the month's folder, unless it is there and the month was over when it was made; `again` makes it anew.

    `now` is in seconds by the ledger's clock. Nothing is taken from the ledger. Raises UsageError, Permanent
    (`archive_damaged`), Transient (`archive_busy`), LedgerUnavailable, OSError.
    """
    if now < month.since:
        raise UsageError("bad_month", f"{month.name} has not begun (UTC)")
    if is_archive(target) and not again and (there := _there(target, month)) is not None:
        return there
    with filled_folder(target) as part:
        spans = spans_between(database, month.since, month.until)
        name = f"outcomes.{kind.value}"
        with (part / name).open("xb") as file:
            trend, batches = _write_outcomes(database, month, spans, file, kind=kind, show=show)
            file.flush()
            os.fsync(file.fileno())
        total = trend.total.outcomes
        if not total:
            (part / name).unlink()
            return Archived(month=month.name, folder=target, outcomes=0, batches=0, partial=False, made=False)
        told = _told(month, trend, batches=batches, now=now, before=_before(database, month.before(), target, show))
        write_file(part / TREND, json.dumps(told, indent=1).encode() + b"\n")
        write_file(part / "trend.html", trend_page(told).encode())
    partial = bool(told["partial"])
    return Archived(month=month.name, folder=target, outcomes=total, batches=batches, partial=partial, made=True)


def _there(target: Path, month: Month) -> Archived | None:
    """What an earlier run made; None when it was made before the month was over, and is to be made anew."""
    wrong = check(target)
    if wrong:
        raise Permanent("archive_damaged", f"{target}: {'; '.join(wrong)}: restore it, or make it anew with --again")
    told = json.loads((target / TREND).read_text(encoding="utf-8"))
    if told["month"] != month.name:
        raise UsageError("bad_output", f"{target} holds {told['month']}, not {month.name}: name another folder")
    if told["partial"]:
        return None
    number = int(told["totals"]["outcomes"])
    return Archived(
        month=month.name, folder=target, outcomes=number, batches=told["batches"], partial=False, made=False
    )


def _write_outcomes(
    database: Database,
    month: Month,
    spans: list[Span],
    file: BinaryIO,
    *,
    kind: ExportFormat,
    show: Callable[[str], None],
) -> tuple[Trend, int]:
    """Every outcome in the order of batches and rows, counted as it is written; and the number of batches."""
    trend, seen, number = Trend(), set(), 0
    described = {"version": version("caption-audit"), "month": month.name}
    with record_writer(file, kind, ["extra"], described) as write:
        for span in spans:
            for row in outcomes_between(database, span, month.since, month.until):
                write(_record(row, span))
                trend.add(row.judged_at[:10], _fact(row))
                seen.add(span.batch)
                number += 1
                if number % EVERY == 0:
                    show(f"{counted(number, 'outcome')} written")
    return trend, len(seen)


def _record(row: OutcomeRow, span: Span) -> dict[str, Any]:
    """Each batch has extra columns of its own: here they are one, a JSON object."""
    extra = COMPACT.encode(dict(row.extra)) if row.extra else None
    return record(replace(row, extra={"extra": extra} if extra else {}), _EXTRA, batch=span.batch, batch_name=span.name)


_EXTRA = {"extra": "extra"}


def _fact(row: OutcomeRow) -> Mapping[str, Any]:
    from db.archive_queries import FACTS

    return {name: getattr(row, name) for name in FACTS}


def _told(month: Month, trend: Trend, *, batches: int, now: float, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """What trend.json holds; names are stable."""
    figures = trend.to_json()
    return {
        "version": 1,
        "month": month.name,
        "since": iso(month.since),
        "until": iso(month.until),
        "made_at": iso(now),
        "partial": not month.is_over(now),
        "batches": batches,
        **figures,
        "before": before,
        "changes": changes(before["totals"], figures["totals"]) if before else {},
    }


def _before(database: Database, month: Month, target: Path, show: Callable[[str], None]) -> dict[str, Any] | None:
    """The month before: from its own archive beside this one, which outlives the ledger's batches; else counted."""
    sibling = target.with_name(month.name)
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads((sibling / TREND).read_text(encoding="utf-8"))
        if told["month"] == month.name and not told["partial"] and not check(sibling):
            changes(told["totals"], told["totals"])  # it has every figure
            return {"month": month.name, "source": "archive", "totals": told["totals"]}
    show(f"counting {month.name}, to compare with")
    trend = Trend()
    for span in spans_between(database, month.since, month.until):
        for fact in facts_between(database, span, month.since, month.until):
            trend.add("", fact)
    totals = trend.total
    return {"month": month.name, "source": "ledger", "totals": totals.to_json()} if totals.outcomes else None
