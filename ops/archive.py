"""The command archive: a month's outcomes and their trend, as files."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.arguments import ExportFormat, JsonOption, examples, ledger
from ops.text import counted

if TYPE_CHECKING:
    from ops.archiving import Archived


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "caption-audit archive",
            "caption-audit archive --month 2026-10",
            "caption-audit archive --month 2026-10 --format csv --output /backup/audit/2026-10",
            "caption-audit archive --month 2026-10 --json | jq .outcomes",
        )
    )(archive)


def archive(
    *,
    month: Annotated[
        str | None, typer.Option(metavar="YEAR-MONTH", help="In UTC, as 2026-10. Default: the month before this one.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Default: AUDIT_HOME/archive/YEAR-MONTH.")
    ] = None,
    kind: Annotated[ExportFormat, typer.Option("--format", help="How outcomes are written.")] = ExportFormat.PARQUET,
    again: Annotated[bool, typer.Option("--again", help="Make it anew, though it is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write every outcome that was judged in a month, of all batches, with a report of its trend.

    DIR gets outcomes.parquet (or .csv, .jsonl), trend.json, trend.html and SHA256SUMS, and appears when it is complete.
    The trend has, by day and model revision: labels, probabilities, failures by code, latency, the cache's share; and
    the change against the month before. An archive of a month that is over is checked and left as it is; one made
    before the month's end is made anew. The ledger keeps everything.
    """
    from db.archive_queries import ledger_now
    from ops.archiving import archive as made_of
    from ops.archiving import month_of, parse_month

    chosen = None if month is None else parse_month(month)
    with ledger() as (settings, database):
        now = ledger_now(database)
        wanted = chosen or month_of(now).before()
        target = Path(output or settings.home / "archive" / wanted.name).absolute()
        done = made_of(database, wanted, target=target, kind=kind, again=again, now=now, show=_progress)
    if as_json:
        from ops.show import print_json

        print_json(_json(done))
        return
    print(_line(done))


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _json(done: "Archived") -> dict[str, object]:
    return {
        "month": done.month,
        "folder": str(done.folder) if done.outcomes else None,
        "outcomes": done.outcomes,
        "batches": done.batches,
        "partial": done.partial,
        "made": done.made,
    }


def _line(done: "Archived") -> str:
    if not done.outcomes:
        return f"nothing was judged in {done.month}: no archive was made"
    what = f"{counted(done.outcomes, 'outcome')} of {done.batches:,} batch{'es' * (done.batches != 1)}"
    if not done.made:
        return f"{done.folder} is complete: {what}, every checksum is right (--again makes it anew)"
    partial = f"; {done.month} is not over, so this is partial, and the next run makes it anew" if done.partial else ""
    return f"wrote {done.folder}: {what}{partial}"
