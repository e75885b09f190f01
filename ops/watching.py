"""Following a batch to its end: a bar on a terminal, plain lines elsewhere, always on stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from audit.errors import LedgerUnavailable
from audit.pair import BatchId
from ops.show import console, progress_line
from ops.text import duration

if TYPE_CHECKING:
    from db.engine import Database
    from db.queries import Progress

LINE_EVERY_S = 5.0
HINT_AFTER_S = 15.0
PATIENCE_S = 60.0
"""How long a watcher waits for a ledger that does not answer: PostgreSQL restarts in less."""


def follow(
    database: "Database", batch: BatchId, *, poll_s: float = 0.5, meanwhile: Callable[[], object] = lambda: None
) -> "Progress":
    """Show progress until nothing more will change; returns the last state. `meanwhile` is called at every look.

    Raises UsageError for an unknown batch, LedgerUnavailable after a minute without an answer, KeyboardInterrupt, and
    what `meanwhile` raises.
    """
    states = _states(database, batch, poll_s, meanwhile)
    return _bar(batch, states) if sys.stderr.isatty() else _lines(states)


def _states(
    database: "Database", batch: BatchId, poll_s: float, meanwhile: Callable[[], object]
) -> Iterator["Progress"]:
    """The batch's progress now and then, the last one when it is finished."""
    from db.queries import progress

    deadline: float | None = None
    first = True
    while True:
        try:
            seen = progress(database, batch)
        except LedgerUnavailable:
            deadline = deadline or time.monotonic() + PATIENCE_S
            if first or time.monotonic() > deadline:
                raise
        else:
            first, deadline = False, None
            yield seen
            if seen.finished:
                return
        meanwhile()
        time.sleep(poll_s)


def exit_status(seen: "Progress") -> int:
    """0 when every pair has its verdict, 3 when some have failures, 1 when some have nothing."""
    if seen.state != "done":
        return 1
    return 3 if seen.failed else 0


def _lines(states: Iterator["Progress"]) -> "Progress":
    printed, line = -LINE_EVERY_S, ""
    for seen in states:
        now = time.monotonic()
        changed = progress_line(seen) != line
        if seen.finished or (changed and now - printed >= LINE_EVERY_S):
            line, printed = progress_line(seen), now
            print(line, file=sys.stderr, flush=True)
    return seen


def _bar(batch: BatchId, states: Iterator["Progress"]) -> "Progress":
    from rich.progress import BarColumn, Progress, TextColumn

    columns = ("{task.description}", "{task.completed:,.0f}/{task.total:,.0f}", "{task.fields[detail]}")
    texts = [TextColumn(column, markup=False) for column in columns]
    started = time.monotonic()
    with Progress(texts[0], BarColumn(bar_width=16), *texts[1:], console=console(stderr=True)) as bar:
        task = bar.add_task(f"batch {batch}", total=1, detail="")
        for seen in states:
            detail = _detail(seen, waited_s=time.monotonic() - started)
            bar.update(task, total=seen.submitted - seen.cancelled, completed=seen.judged, detail=detail)
    return seen


def _detail(seen: "Progress", *, waited_s: float) -> str:
    if seen.state == "queued":
        hint = f": is a worker running for the model {seen.model}?" if waited_s > HINT_AFTER_S else ""
        return f"waiting for a worker{hint}"
    # Short, and what changes most in front: the line shares 80 columns with the bar.
    parts = [f"{seen.rate:.1f} pairs/s"] if seen.rate else []
    if seen.eta_s is not None:
        parts.append(f"{duration(seen.eta_s)} left")
    return ", ".join([*parts, f"{seen.flagged:,} flagged", f"{seen.failed:,} failed"])
