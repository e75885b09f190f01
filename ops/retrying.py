"""The command `retry`: failures are judged again, once what made them fail is mended."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from audit.errors import BrokerUnavailable
from audit.pair import BatchId
from ops.arguments import BatchArgument, JsonOption, examples, ledger
from ops.text import counted, one_line, plain

if TYPE_CHECKING:
    from audit.settings import Settings
    from db.engine import Database


def register(app: typer.Typer) -> None:
    """Add the command."""
    epilog = examples(
        "caption-audit retry 17", "caption-audit retry 17 --code file_missing --watch", "caption-audit retry 17 --json"
    )
    app.command(epilog=epilog)(retry)


def retry(
    batch: BatchArgument,
    code: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only failures with this code; `status BATCH` lists them.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end; exit status 3: with failures.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Judge a batch's failures again, when what made them fail is mended; verdicts are never touched.

    Each failure stands until its new outcome replaces it; the old ones can be read in the view replaced_failures. Rows
    that were refused at submission are left out: mend the manifest and submit it.
    """
    from db.retry import retry_failures

    with ledger() as (settings, database):
        asked = retry_failures(database, BatchId(batch), code=code)
        trouble = _ring(settings, database) if asked else None
        if not as_json:
            for line in _lines(database, settings, batch=batch, code=code, asked=asked):
                print(line, flush=True)
        if trouble:
            cure = "any worker sends them when Redis is back"
            print(f"note: {one_line(trouble)}; the failures are marked: {cure}", file=sys.stderr)
        status = _end(database, settings, batch, asked=asked, watch=watch and not trouble, as_json=as_json)
    return BrokerUnavailable.exit_status if trouble else status


def _ring(settings: "Settings", database: "Database") -> str | None:
    """Send messages for what waits now; says what kept it from that."""
    from ops.doing import ring_for_waiting

    try:
        ring_for_waiting(settings, database)
    except BrokerUnavailable as error:
        return error.detail
    return None


def _lines(database: "Database", settings: "Settings", *, batch: int, code: str | None, asked: int) -> list[str]:
    from db.queries import failure_codes
    from ops.hints import typed

    having = "" if code is None else f" with the code {plain(code)}"
    if asked:
        how_far = typed(f"status {batch}", settings)
        return [f"{counted(asked, 'failure')} of batch {batch}{having} will be judged again; how far: {how_far}"]
    lines = [f"batch {batch} has no failure{having} that can be retried, or is being retried already"]
    codes = failure_codes(database, BatchId(batch))
    if codes:
        lines.append("  its failures: " + ", ".join(f"{plain(known)} {count:,}" for known, count in codes.items()))
    return lines


def _end(database: "Database", settings: "Settings", batch: int, *, asked: int, watch: bool, as_json: bool) -> int:
    from db.queries import progress
    from ops.asking import follow_or_say_how, print_summary
    from ops.show import print_json, progress_json
    from ops.watching import exit_status

    seen = follow_or_say_how(database, BatchId(batch), settings) if watch else None
    if as_json:
        told = progress_json(seen or progress(database, BatchId(batch)))
        print_json({"batch": batch, "retried": asked, "state": told["state"], "counts": told["counts"]})
    elif seen is not None:
        print_summary(database, seen, settings)
    if not watch:
        return 0
    return 130 if seen is None else exit_status(seen)
