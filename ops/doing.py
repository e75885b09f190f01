"""The commands that change the ledger: submit, cancel, sweep."""

from typing import TYPE_CHECKING

import typer

from audit.pair import BatchId
from ops.arguments import BatchArgument, JsonOption, examples, ledger

if TYPE_CHECKING:
    pass


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=examples("caption-audit cancel 17"))(cancel)


def cancel(batch: BatchArgument, as_json: JsonOption = False) -> None:
    """Cancel what has not been judged yet; verdicts stay. Cancelling again changes nothing."""
    from db.cancel import cancel_batch
    from db.queries import progress
    from ops.show import print_json

    with ledger() as (_, database):
        cancelled = cancel_batch(database, BatchId(batch))
        seen = progress(database, BatchId(batch))
    if as_json:
        print_json({"batch": batch, "state": seen.state, "cancelled": cancelled})
    else:
        print(f"cancelled {cancelled:,} pairs of batch {batch}; {seen.judged:,} are judged and stay")
