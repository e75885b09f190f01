"""Batches and outcomes as people and scripts see them."""

import json
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ops.hints import typed
from ops.narrow import FOLDED, fitted
from ops.text import counted, duration, iso, plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from audit.settings import Settings
    from db.queries import OutcomeRow, Progress

COUNTS = ("submitted", "yes", "no", "maybe", "failed", "flagged", "cancelled", "remaining")
NUMERIC = frozenset({"done", "submitted", "flagged", "failed", "pairs/s", "left", "p_no", "p_yes", "p_maybe"})
PIPE_WIDTH = 160
"""Columns of a table that goes to a file or a pipe, where there is no terminal to ask."""


def print_json(value: object) -> None:
    """One JSON value, alone on stdout; ASCII, so that every reader can decode it."""
    print(json.dumps(value, indent=2), flush=True)


def console(*, stderr: bool = False) -> "Console":
    """A console that interprets nothing: no markup, no emoji names, no colouring of numbers."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=width)


def progress_json(seen: "Progress") -> dict[str, Any]:
    """What `status --json` says about a batch; names are stable."""
    return {
        "batch": seen.batch,
        "name": seen.name,
        "state": seen.state,
        "counts": {name: getattr(seen, name) for name in COUNTS},
        "retrying": seen.retrying,
        "chunks": dict(seen.chunks),
        "rate": None if seen.rate is None else round(seen.rate, 3),
        "eta_s": None if seen.eta_s is None else round(seen.eta_s, 1),
        "model": seen.model,
        "tenant": seen.tenant,
        "lane": seen.lane,
        "policy": json.loads(seen.policy),
        "created_at": iso(seen.created_at),
        "started_at": iso(seen.started_at),
        "finished_at": iso(seen.finished_at),
    }


def progress_line(seen: "Progress") -> str:
    """How far a batch is, on one line."""
    parts = [f"batch {seen.batch} {seen.state}: {_so_far(seen)}", counts_line(seen)]
    if seen.rate:
        parts.append(f"{seen.rate:.1f} pairs/s")
    if seen.eta_s is not None:
        parts.append(f"{duration(seen.eta_s)} left")
    return ", ".join(parts)


def _so_far(seen: "Progress") -> str:
    """Pairs with a verdict or a failure, of all."""
    return f"{seen.judged:,} of {counted(seen.submitted, 'pair')}"


def counts_line(seen: "Progress") -> str:
    """The labels, failures and flags of a batch."""
    line = f"Yes {seen.yes:,}, No {seen.no:,}, Maybe {seen.maybe:,}, failed {seen.failed:,}, flagged {seen.flagged:,}"
    line += f", cancelled {seen.cancelled:,}" if seen.cancelled else ""
    return f"{line}, retrying {seen.retrying:,}" if seen.retrying else line


def summary(
    seen: "Progress", failures: Mapping[str, int], settings: "Settings", *, trouble: str | None = None
) -> list[str]:
    """A batch in a few lines: what came out, how long it took, what keeps it, and what can be done next."""
    name = plain(seen.name)
    lines = [f"batch {seen.batch} ({name}) is {seen.state}: {_so_far(seen)}"]
    if seen.started_at is not None and seen.finished_at is not None:
        lines[0] += f" in {duration(seen.finished_at - seen.started_at)}"
    if seen.rate:
        lines[0] += f" ({seen.rate:.1f} pairs/s)"
    if seen.failed:
        lines[0] += f", {seen.failed:,} of them failed"
    if seen.eta_s is not None:
        lines[0] += f", {duration(seen.eta_s)} left"
    lines.append(f"  {counts_line(seen)}")
    if failures:
        lines.append("  failures: " + ", ".join(f"{plain(code)} {count:,}" for code, count in failures.items()))
    parked = seen.chunks.get("parked", 0)
    if parked:
        cure = f"see the worker's log, then: {typed('sweep --parked', settings)}"
        lines.append(f"  parked chunks: {parked:,}; their processes died too often ({cure})")
    if trouble is not None:
        lines.append(f"  {trouble}")
    elif seen.state == "queued":
        lines.append(f"  no worker has begun with it; see: {typed('workers', settings)}")
    if seen.flagged:
        lines.append(f"  to see what was flagged: {typed(f'flagged {seen.batch}', settings)}")
    if seen.failed:
        lines.append(f"  to see what failed and why: {typed(f'export {seen.batch} -o outcomes.csv', settings)}")
    if seen.failed and seen.state == "done":
        lines.append(f"  to judge them again, when that is mended: {typed(f'retry {seen.batch}', settings)}")
    return lines


def batches_table(listed: Iterable["Progress"]) -> "Table":
    """The batches, one a line."""
    shown = table("batch", "name", "state", "done", "submitted", "flagged", "failed", "pairs/s", "left", "created")
    for seen in listed:
        rate = "" if not seen.rate else f"{seen.rate:.1f}"
        left = "" if seen.eta_s is None else duration(seen.eta_s)
        numbers = [f"{number:,}" for number in (seen.judged, seen.submitted, seen.flagged, seen.failed)]
        add_row(shown, str(seen.batch), seen.name, seen.state, *numbers, rate, left, iso(seen.created_at) or "")
    return shown


def outcomes_table(rows: Iterable["OutcomeRow"]) -> "Table":
    """Pairs with their labels and probabilities, and what a reader must know of them (`language_unsupported`)."""
    shown = table("id", "image", "caption", "label", "p_no", "p_yes", "p_maybe", "flags")
    for row in rows:
        scores = ["" if value is None else f"{value:.3f}" for value in (row.p_no, row.p_yes, row.p_maybe)]
        add_row(shown, row.id, row.image, row.caption, row.label or "", *scores, " ".join(row.flags))
    return shown


def print_table(made: "Table") -> None:
    """On stdout, as wide as there is room."""
    shown = console()
    shown.print(fitted(made, shown.width))


def add_row(shown: "Table", *cells: str) -> None:
    """Text as text: escaped, and never read as markup."""
    from rich.text import Text

    shown.add_row(*(Text(plain(cell)) for cell in cells))


def table(*names: str, numeric: Collection[str] = NUMERIC) -> "Table":
    """An empty table with these columns; numbers stand to the right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        right = name in numeric
        made.add_column(name, justify="right" if right else "left", no_wrap=name not in FOLDED, overflow="fold")
    return made
