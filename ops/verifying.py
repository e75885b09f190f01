"""The command verify: everything in the ledger that does not hold, a line each with what to do."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audit.errors import AuditError
from audit.pair import BatchId
from ops.arguments import JsonOption, batch_id, examples, ledger
from ops.text import counted, duration, one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from audit.settings import Settings
    from db.engine import Database
    from db.verify import Finding, Seen

MOST_LINES = 10
MOST_VALUES = 1_000
"""Findings a kind that are kept for people, and for --json; the rest is counted."""
DOC = "docs/backup.md"
RESTORE = f"restore a backup: {DOC}"
NOTICE = "tell whoever edited it by hand; if nobody did, this is a fault of caption-audit: report it"
AGAIN = "submit the pairs anew with --again, and tell us how it came about"
KINDS = {
    "unknown_state": ("its state is unknown", NOTICE),
    "bad_policy": ("its policy is unreadable", NOTICE),
    "from_the_future": ("is later than the database's clock", "see whether the clock of the database was set back"),
    "suspect_without_pair": ("suspects without their pair", "DELETE them from suspects"),
    "suspect_in_done_chunk": ("suspects in chunks that are done", "harmless: DELETE them from suspects"),
    "retry_without_failure": ("retries of pairs without a failure", "DELETE them from retries"),
    "history_without_outcome": ("replaced failures of pairs without an outcome", RESTORE),
    "history_too_new": ("replaced failures newer than what replaced them", NOTICE),
    "wrong_pairs": ("the number of its pairs is not that of its rows", RESTORE),
    "wrong_counts": ("its counts are not those of its outcomes", NOTICE),
    "verdict_and_failure": ("outcomes that are a verdict and a failure, or neither", RESTORE),
    "bad_scores": ("verdicts whose scores are no probabilities", AGAIN),
    "wrong_label": ("verdicts whose label is not the most probable one", NOTICE),
    "wrong_flag": ("outcomes whose flag is not what the batch's policy says", NOTICE),
    "bad_attempt": ("outcomes with an impossible attempt", NOTICE),
    "nameless": ("outcomes that do not say which worker, model or revision", NOTICE),
    "outcome_without_pair": ("outcomes without their pair", RESTORE),
    "done_without_outcome": ("pairs without an outcome in a chunk that is done", "judge it again: see {doc}#repair"),
    "chunk_missing": ("chunks are missing", RESTORE),
    "bad_range": ("its rows do not follow those of the chunk before", RESTORE),
    "pair_in_no_chunk": ("pairs that are in no chunk", RESTORE),
    "outcome_in_no_chunk": ("outcomes that are in no chunk", RESTORE),
    "running_without_holder": ("is running, and nobody holds it", "judge it again: see {doc}#repair"),
    "done_without_time": ("is done, and does not say when", NOTICE),
    "unfinished_in_cancelled": (
        "is not finished, though its batch is cancelled",
        "run caption-audit cancel for it again",
    ),
    "cancelled_in_open": ("is cancelled, though its batch is not", "judge it again: see {doc}#repair"),
    "negative_count": ("a count below 0", NOTICE),
    "table_missing": ("a table is missing", RESTORE),
    "column_missing": (
        "a column is missing",
        "run caption-audit db upgrade; if that says `as before`, restore a backup",
    ),
    "constraint_missing": ("a key or constraint is missing", "restore into an empty database: see {doc}#repair"),
    "index_missing": ("an index is missing", "remove the doubles, then create it with this statement"),
    "double": ("rows that must be one", RESTORE),
    "without_batch": ("rows without their batch", "DELETE them, or restore a backup that has the batch"),
    "file_damaged": ("SQLite's file is damaged", RESTORE),
    "foreign_key_broken": ("a reference leads nowhere", RESTORE),
    "message_without_batch": ("messages in Redis for a batch that the ledger does not have", "submit its file again"),
    "message_without_chunk": ("messages in Redis for chunks that the ledger does not have", "submit its file again"),
}
"""What each kind means, and what to do."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "caption-audit verify",
            "caption-audit verify 17",
            "caption-audit verify --redis",
            "caption-audit verify --json | jq '.findings[] | .kind'",
        )
    )(verify)


def verify(
    batch: Annotated[
        int | None,
        typer.Argument(parser=batch_id, metavar="[BATCH]", help="The batch's number; without it: the whole ledger."),
    ] = None,
    redis: Annotated[
        bool, typer.Option("--redis", help="Also look for messages of batches that the ledger does not have.")
    ] = False,
    most: Annotated[
        int | None,
        typer.Option(min=1, help="Lines of one kind at most; 10, with --json 1,000.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Check that what the ledger holds adds up: counts, gaps, doubles, orphans, scores, flags, constraints.

    It only reads, beside workers too, about a minute a million pairs at the very most. Without BATCH a SQLite file is
    also checked by SQLite itself (integrity_check, foreign_key_check), which reads all of it and takes a while.

    Exit status 0: everything holds; 1: a line says for each finding what to do; 2: there is no such batch; 69: the
    ledger does not answer; 75: with --redis, Redis does not.
    """
    from db.verify import known_batches

    began = time.monotonic()
    kept = _Kept(most=most or (MOST_VALUES if as_json else MOST_LINES))
    with ledger() as (settings, database):
        held = known_batches(database, None if batch is None else BatchId(batch))
        try:
            for finding in _look(settings, database, held, kept, whole=batch is None, redis=redis):
                kept.add(finding)
        except KeyboardInterrupt:
            print(f"stopped; until then {counted(kept.total, 'finding')}", file=sys.stderr)
            return 130
        except AuditError:  # Redis, or the ledger in the middle of it: what was found until then is found
            _print(kept, time.monotonic() - began, complete=False, as_json=as_json)
            raise
    _print(kept, time.monotonic() - began, complete=True, as_json=as_json)
    return 1 if kept.total else 0


class _Kept:
    """Findings, a bounded number of each kind, and what was counted of each batch."""

    def __init__(self, *, most: int) -> None:
        self.most = most
        self.findings: list[Finding] = []
        self.kinds: Counter[str] = Counter()
        self.batches: dict[int, Seen] = {}

    @property
    def total(self) -> int:
        return self.kinds.total()

    def add(self, finding: "Finding") -> None:
        self.kinds[finding.kind] += 1
        if self.kinds[finding.kind] <= self.most:
            self.findings.append(finding)

    def left_out(self) -> dict[str, int]:
        return {kind: number - self.most for kind, number in self.kinds.items() if number > self.most}


def _look(
    settings: "Settings", database: "Database", held: dict[BatchId, int], kept: _Kept, *, whole: bool, redis: bool
) -> Iterator["Finding"]:
    from db.verify import verify_batch
    from db.verify_whole import verify_catalogue, verify_file, verify_orphans

    with _progress(sum(held.values())) as tell:
        tell("constraints", 0)
        yield from verify_catalogue(database)
        done = 0
        for number, pairs in held.items():

            def told(seen: "Seen", before: int = done) -> None:
                kept.batches[seen.batch] = seen
                tell(f"batch {seen.batch}", before + seen.submitted)

            yield from verify_batch(database, number, told=told)
            done += pairs
        if whole:
            tell("orphans", done)
            yield from verify_orphans(database)
            tell("SQLite's own check" if database.is_sqlite else "orphans", done)
            yield from verify_file(database)
        if redis:
            from ops.lost_messages import lost_messages

            tell("Redis", done)
            yield from lost_messages(settings, database)


@contextmanager
def _progress(total: int) -> Iterator["Callable[[str, int], object]"]:
    """A bar on a terminal, else nothing: what is found is the output."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from ops.show import console

    texts = [
        TextColumn(text, markup=False) for text in ("{task.description}", "{task.completed:,.0f}/{task.total:,.0f}")
    ]
    columns = (texts[0], BarColumn(bar_width=16), texts[1], TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda what, done: bar.update(task, description=what, completed=done)


def _print(kept: _Kept, took_s: float, *, complete: bool, as_json: bool) -> None:
    seen = kept.batches.values()
    if as_json:
        from ops.show import print_json

        value: dict[str, Any] = {"ok": complete and not kept.total, "complete": complete}
        value |= {"kinds": dict(kept.kinds), "left_out": kept.left_out()}
        value["findings"] = [{**asdict(found), "line": _line(found), "cure": _cure(found)} for found in kept.findings]
        print_json(value | {"batches": [asdict(each) for each in seen], "took_s": round(took_s, 3)})
        return
    for finding in kept.findings:
        print(one_line(f"{_line(finding)}: {_cure(finding)}"))
    for kind, number in kept.left_out().items():
        print(f"and {number:,} more of {kind} (--most shows more)")
    pairs, verdicts, failures = (
        sum(getattr(one, name) for one in seen) for name in ("submitted", "verdicts", "failures")
    )
    cancelled, remaining = (sum(getattr(one, name) for one in seen) for name in ("cancelled", "remaining"))
    judged = f"{counted(verdicts, 'verdict')}, {counted(failures, 'failure')}"
    parts = f"{judged}, {cancelled:,} cancelled, {remaining:,} remaining"
    what = "batch" if len(seen) == 1 else "batches"
    print(f"{len(seen):,} {what}, {counted(pairs, 'pair')} = {parts}; looked at in {duration(took_s)}")
    found = f"{counted(kept.total, 'finding')} of {counted(len(kept.kinds), 'kind')}" if kept.total else ""
    print(
        f"not looked at to its end: {found or 'nothing found so far'}" if not complete else found or "everything holds"
    )


def _line(finding: "Finding") -> str:
    where = [] if finding.batch is None else [f"batch {finding.batch}"]
    where += [] if finding.chunk is None else [f"chunk {finding.chunk}"]
    what = KINDS[finding.kind][0]
    if finding.count > 1:
        what = f"{finding.count:,} {what}"
    if finding.rows:
        more = ", ..." if finding.count > len(finding.rows) else ""
        what += f" (row{'s' * (finding.count > 1)} {', '.join(map(str, finding.rows))}{more})"
    if finding.detail:
        what += f" ({finding.detail})"
    return f"{finding.kind}: {', '.join(where)}{': ' if where else ''}{what}"


def _cure(finding: "Finding") -> str:
    return KINDS[finding.kind][1].format(doc=DOC)
