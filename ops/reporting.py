"""The command report: a batch as one HTML file."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit.pair import BatchId
from ops.arguments import BatchArgument, JsonOption, examples, ledger

if TYPE_CHECKING:
    from audit.settings import Settings
    from db.report_queries import ReportAnswers
    from ops.report.pictures import Thumbnail

THUMBNAILS = 60
THUMBNAILS_AT_MOST = 1_000
"""About 15 kB each, at most 100: the file stays one that a browser opens and a mail server takes."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog=examples(
            "caption-audit report 17 -o report.html",
            "caption-audit report 17 -o report.html --thumbnails 200",
            "caption-audit report 17 --json | jq .counts",
        )
    )(report)


def report(
    batch: BatchArgument,
    *,
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="`-` is standard output.")] = "-",
    thumbnails: Annotated[
        int, typer.Option(min=0, max=THUMBNAILS_AT_MOST, help="How many flagged pairs to show, the surest first.")
    ] = THUMBNAILS,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Whether to show their pictures.")] = True,
    image_root: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the pictures lie here. Default: where they lay when submitted."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write what came out of a batch as one HTML file; FILE appears only when it is complete.

    Counts, plots of labels, probabilities, times and failures, the flagged pairs with small pictures (blurred until
    they are clicked), and the SQL behind each number. The file loads nothing and runs no script. A batch that still
    runs is marked as partial. --json prints the numbers and the SQL instead.
    """
    from audit.errors import UsageError
    from db.queries import progress
    from db.report_queries import ask_for_report
    from ops.exporting import written_whole
    from ops.report.facts import Report

    if as_json and output != "-":
        raise UsageError("bad_output", "--json goes to standard output: redirect it, or leave out -o")
    with ledger() as (settings, database):
        seen = progress(database, BatchId(batch))
        asked = ask_for_report(database, BatchId(batch), flagged=thumbnails)
    made = Report(seen=seen, answers=asked.answers, written_at=time.time())
    if as_json:
        from ops.show import print_json

        print_json(made.to_json())
        return
    from ops.report.page import page

    with written_whole(output, binary=True) as file:
        shown = _pictures(asked, settings, image_root) if pictures else None
        file.write(page(made, shown).encode())
    if not seen.finished:
        print(f"note: batch {batch} is {seen.state}, the report is partial", file=sys.stderr)
    if output != "-":
        print(f"wrote {output}", file=sys.stderr)


def _pictures(asked: "ReportAnswers", settings: "Settings", image_root: Path | None) -> "dict[int, Thumbnail]":
    from ops.report.pictures import Wanted, thumbnails

    wanted = {
        int(row["row"]): Wanted(reference=asked.references[int(row["row"])], sha256=row["image_sha256"])
        for row in asked.answers["flagged"].rows
    }
    return thumbnails(wanted, image_root=str(image_root or asked.image_root), settings=settings)
