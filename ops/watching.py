"""Following a batch to its end: a bar on a terminal, plain lines elsewhere, always on stderr."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from audit.errors import LedgerUnavailable
from audit.pair import BatchId
from ops.show import console, progress_line
from ops.text import duration, plain
from ops.worker_view import judged_by_nobody

if TYPE_CHECKING:
    from audit.settings import Settings
    from db.engine import Database
    from db.queries import Progress

LINE_EVERY_S = 5.0
Look = tuple["Progress", str | None]
"""How far the batch is, and what keeps it from going on (None: nothing that is known)."""
PATIENCE_S = 60.0
"""How long a watcher waits for a ledger that does not answer: PostgreSQL restarts in less."""


def follow(
    database: "Database",
    batch: BatchId,
    settings: "Settings",
    *,
    poll_s: float = 0.5,
    meanwhile: Callable[[], object] = lambda: None,
) -> "Progress":
    """Show progress until nothing more will change; returns the last state. `meanwhile` is called at every look.

    That no worker holds the batch's model is said once, and again when it changes; meanwhile no time left is foretold.

    Raises UsageError for an unknown batch, LedgerUnavailable after a minute without an answer, KeyboardInterrupt, and
    what `meanwhile` raises.
    """
    looks = _looks(lambda: look(database, batch, settings), poll_s, meanwhile)
    return _bar(batch, looks) if sys.stderr.isatty() else _lines(looks)


def look(database: "Database", batch: BatchId, settings: "Settings") -> Look:
    """The batch now, and what keeps it.

    Raises UsageError for an unknown batch, LedgerUnavailable.
    """
    from db.queries import progress

    return judged_by_nobody(database, progress(database, batch), settings)


def _looks(look: Callable[[], Look], poll_s: float, meanwhile: Callable[[], object]) -> Iterator[Look]:
    """A look now and then, the last one when the batch is finished."""
    deadline: float | None = None
    first = True
    while True:
        try:
            seen, trouble = look()
        except LedgerUnavailable:
            deadline = deadline or time.monotonic() + PATIENCE_S
            if first or time.monotonic() > deadline:
                raise
        else:
            first, deadline = False, None
            yield seen, trouble
            if seen.finished:
                return
        meanwhile()
        time.sleep(poll_s)


def exit_status(seen: "Progress") -> int:
    """0 when every pair has its verdict, 3 when some have failures, 1 when some have nothing."""
    if seen.state != "done":
        return 1
    return 3 if seen.failed else 0


def _news(before: str | None, trouble: str | None, seen: "Progress") -> str | None:
    """What is to be said when the trouble changed."""
    if still(trouble) == still(before) or (trouble is None and seen.finished):
        return None
    return trouble or f"a worker holds the model {plain(seen.model)} now"


def still(trouble: str | None) -> str | None:
    """Without how long it lasts: a clock that goes on is no news."""
    return trouble and re.sub(r"(?:[\d.]+ (?:s|min|h|d)\b ?)+", "", trouble)


def _lines(looks: Iterator[Look]) -> "Progress":
    printed, line, before = -LINE_EVERY_S, "", None
    for seen, trouble in looks:
        if news := _news(before, trouble, seen):
            print(news, file=sys.stderr, flush=True)
        before = trouble
        now = time.monotonic()
        changed = progress_line(seen) != line
        if seen.finished or (changed and now - printed >= LINE_EVERY_S):
            line, printed = progress_line(seen), now
            print(line, file=sys.stderr, flush=True)
    return seen


def _bar(batch: BatchId, looks: Iterator[Look]) -> "Progress":
    from rich.progress import BarColumn, Progress, TextColumn

    columns = ("{task.description}", "{task.completed:,.0f}/{task.total:,.0f}", "{task.fields[detail]}")
    texts = [TextColumn(column, markup=False) for column in columns]
    before: str | None = None
    with Progress(texts[0], BarColumn(bar_width=16), *texts[1:], console=console(stderr=True)) as bar:
        task = bar.add_task(f"batch {batch}", total=1, detail="")
        for seen, trouble in looks:
            if news := _news(before, trouble, seen):
                bar.console.print(news, soft_wrap=True)  # whole, so that its command can be copied
            before = trouble
            detail = _detail(seen, waits=trouble is not None)
            bar.update(task, total=seen.submitted - seen.cancelled, completed=seen.judged, detail=detail)
    return seen


def _detail(seen: "Progress", *, waits: bool) -> str:
    if waits or seen.state == "queued":
        return "waiting for a worker"
    # Short, and what changes most in front: the line shares 80 columns with the bar.
    parts = [f"{seen.rate:.1f} pairs/s"] if seen.rate else []
    if seen.eta_s is not None:
        parts.append(f"{duration(seen.eta_s)} left")
    return ", ".join([*parts, f"{seen.flagged:,} flagged", f"{seen.failed:,} failed"])
