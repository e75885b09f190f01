"""The commands that only read the ledger: status, watch, flagged, export."""

import os
import sys
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from audit.errors import UsageError
from audit.pair import BatchId
from ops.arguments import BatchArgument, ExportFormat, FlaggedFormat, JsonOption, batch_id, examples, ledger

if TYPE_CHECKING:
    from audit.settings import Settings
    from db.engine import Database
    from db.queries import Progress

FAILURES_SHOWN_UP_TO = 1_000_000
"""Pairs of a batch up to which `status` counts failure codes: that reads every outcome, about a second a million."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=examples("caption-audit status", "caption-audit status 17", "caption-audit status 17 --json"))(
        status
    )
    app.command(epilog=examples("caption-audit watch 17"))(watch)
    app.command(
        epilog=examples("caption-audit flagged 17", "caption-audit flagged 17 --format csv --limit 1000 > flagged.csv")
    )(flagged)
    app.command(
        epilog=examples(
            "caption-audit export 17 -o verdicts.csv",
            "caption-audit export 17 --format jsonl | jq -r 'select(.label == \"No\").id'",
            "caption-audit export 17 -o verdicts.parquet",
        )
    )(export)


def status(
    batch: Annotated[
        int | None,
        typer.Argument(parser=batch_id, metavar="[BATCH]", help="The batch's number; without it: the newest batches."),
    ] = None,
    as_json: JsonOption = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many batches to list.")] = 20,
) -> None:
    """Show how far a batch is: counts, rate, time left."""
    from db.queries import list_batches, progress
    from ops import show
    from ops.hints import typed
    from ops.worker_view import judged_by_nobody

    with ledger() as (settings, database):
        if batch is None:
            listed = list_batches(database, limit)
            if as_json:
                show.print_json([show.progress_json(seen) for seen in listed])
            elif listed:
                known = [judged_by_nobody(database, seen, settings)[0] for seen in listed]
                show.print_table(show.batches_table(known))
            else:
                print(f"no batches yet: {typed('submit FILE', settings)}")
            return
        seen = progress(database, BatchId(batch))
        if as_json:
            show.print_json({**show.progress_json(seen), "waits": judged_by_nobody(database, seen, settings)[1]})
        else:
            print_summary(database, seen, settings)


def watch(batch: BatchArgument, as_json: JsonOption = False) -> int:
    """Follow a batch until it is finished; exit status 3 when it finished with failures.

    Ctrl-C stops watching, not the batch.
    """
    from ops import show

    with ledger() as (settings, database):
        seen = follow_or_say_how(database, BatchId(batch), settings)
        if seen is None:
            return 130
        if as_json:
            show.print_json(show.progress_json(seen))
        else:
            print_summary(database, seen, settings)
        from ops.watching import exit_status

        return exit_status(seen)


def flagged(
    batch: BatchArgument,
    kind: Annotated[FlaggedFormat, typer.Option("--format", help="How to show them.")] = FlaggedFormat.TABLE,
    limit: Annotated[
        int | None, typer.Option(min=1, help="How many to show; 50 in a table, all otherwise.", show_default=False)
    ] = None,
) -> None:
    """Show the pairs that the batch's policy flagged: in a table the surest mismatch first, else in manifest order."""
    from db.queries import outcomes, progress
    from ops import show
    from ops.text import counted

    with ledger() as (_, database):
        number = BatchId(batch)
        seen = progress(database, number)
        if kind is not FlaggedFormat.TABLE:
            _write(database, seen, ExportFormat(kind.value), output="-", flagged_only=True, limit=limit)
            return
        rows = list(islice(outcomes(database, number, flagged_only=True, order="p_no"), limit or 50))
        if rows:
            show.print_table(show.outcomes_table(rows))
        more = f" (showing {len(rows):,}; --limit shows more)" if len(rows) < seen.flagged else ""
        of_all = f"{seen.flagged:,} of {counted(seen.judged - seen.failed, 'verdict')}"
        print(f"{of_all} {'is' if seen.flagged == 1 else 'are'} flagged{more}; the batch is {seen.state}")


def export(
    batch: BatchArgument,
    kind: Annotated[
        ExportFormat | None,
        typer.Option("--format", help="Default: what FILE ends in (.csv, .jsonl, .ndjson, .parquet), else csv."),
    ] = None,
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="`-` is standard output.")] = "-",
) -> None:
    """Write every outcome with its pair, in manifest order; FILE appears only when it is complete.

    The columns are those of the SQL views `verdicts` and `failures` together (but for `extra`), then the manifest's own
    extra columns; one that has the name of a fixed column is written as extra_<name>. In CSV a text that a spreadsheet
    would take for a formula gets a leading apostrophe; JSON Lines and Parquet have the texts as they are. Parquet has
    typed columns: numbers, booleans, a timestamp, flags as a list.
    """
    from db.queries import progress
    from ops.text import counted

    chosen = kind or _kind_of(output)
    with ledger() as (_, database):
        seen = progress(database, BatchId(batch))
        count = _write(database, seen, chosen, output=output)
    if not seen.finished:
        have = f"{counted(seen.remaining, 'pair')} {'has' if seen.remaining == 1 else 'have'}"
        print(f"note: batch {batch} is {seen.state}, {have} no outcome yet", file=sys.stderr)
    if output != "-":
        print(f"wrote {counted(count, 'outcome')} to {output}", file=sys.stderr)


def print_summary(database: "Database", seen: "Progress", settings: "Settings") -> None:
    """Print a batch in a few lines, with failure codes unless counting them would take long."""
    from db.queries import failure_codes
    from ops.show import summary
    from ops.worker_view import judged_by_nobody

    countable = seen.failed and seen.judged <= FAILURES_SHOWN_UP_TO
    failures = failure_codes(database, seen.batch) if countable else {}
    now, trouble = judged_by_nobody(database, seen, settings)
    print("\n".join(summary(now, failures, settings, trouble=trouble)), flush=True)


def follow_or_say_how(database: "Database", batch: BatchId, settings: "Settings") -> "Progress | None":
    """Follow a batch to its end; None after Ctrl-C, when it was said how to go on."""
    from ops.hints import typed
    from ops.watching import follow

    try:
        return follow(database, batch, settings)
    except KeyboardInterrupt:
        again = typed(f"watch {batch}", settings)
        print(f"\nthe batch goes on; to watch it again: {again}", file=sys.stderr)
        return None


def _kind_of(output: str) -> ExportFormat:
    ending = output.lower().rpartition(".")[2]
    kinds = {"csv": ExportFormat.CSV, "jsonl": ExportFormat.JSONL, "ndjson": ExportFormat.JSONL}
    kinds["parquet"] = ExportFormat.PARQUET
    if ending not in kinds and "." in os.path.basename(output):
        cure = "name one that does, or add --format csv"
        raise UsageError("unknown_format", f"{output} does not end in .csv, .jsonl, .ndjson or .parquet: {cure}")
    return kinds.get(ending, ExportFormat.CSV)


def _write(
    database: "Database",
    seen: "Progress",
    kind: ExportFormat,
    *,
    output: str,
    flagged_only: bool = False,
    limit: int | None = None,
) -> int:
    from db.exports import extra_keys
    from db.queries import outcomes
    from ops.exporting import extra_names, write_rows, written_whole

    with written_whole(output, binary=kind is ExportFormat.PARQUET) as file:
        rows = islice(outcomes(database, seen.batch, flagged_only=flagged_only), limit)
        return write_rows(file, rows, extra_names(extra_keys(database, seen.batch)), kind, seen=seen)
