"""The commands that change the ledger: cancel and sweep."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from audit.pair import BatchId
from ops.arguments import BatchArgument, JsonOption, examples, ledger
from ops.text import counted

if TYPE_CHECKING:
    from audit.settings import Settings
    from db.engine import Database


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=examples("caption-audit cancel 17"))(cancel)
    app.command(epilog=examples("caption-audit sweep", "caption-audit sweep --parked"))(sweep)


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
        kept = f"{counted(seen.judged, 'outcome')} stay{'s' * (seen.judged == 1)}"
        print(f"cancelled {counted(cancelled, 'pair')} of batch {batch}; {kept}")


def sweep(
    parked: Annotated[
        bool, typer.Option("--parked", help="Parked chunks get a new life: when what killed their workers is mended.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Give back the chunks of dead processes, and send messages for chunks that wait; workers do it all the time.

    Exit status 75 when Redis takes no messages: the chunks wait in the ledger.
    """
    from db.sweep import Rules, unpark
    from db.sweep import sweep as sweep_claims
    from ops.show import print_json

    with ledger() as (settings, database):
        revived = unpark(database) if parked else 0
        buried = list(sweep_claims(database, Rules(max_deaths=settings.max_attempts)))
        given_up = sum(one.parked for one in buried)
        for one in buried:
            where = f"chunk {one.chunk} of batch {one.batch}"
            print(f"{where}: process {one.holder.pid} {one.cause.value}{', parked' * one.parked}", file=sys.stderr)
        sent = ring_for_waiting(settings, database)
    if as_json:
        print_json({"released": len(buried) - given_up, "parked": given_up, "revived": revived, "sent": sent})
        return
    back, messages = counted(len(buried) - given_up, "chunk"), counted(sent, "message")
    print(f"gave back {back} of dead processes, parked {given_up}, sent {messages}")
    if parked:
        print(f"revived {counted(revived, 'parked chunk')}")


def ring_for_waiting(settings: "Settings", database: "Database") -> int:
    """Top up Redis once for every model; returns the messages sent. Raises BrokerUnavailable."""
    from db.feed import Window
    from db.queries import open_models
    from producer.enqueue import Bell, top_up

    bell = Bell(settings.broker_url)
    # How many slots there are is not known here; workers top up within a second.
    window = Window(chunks=settings.feed_chunks_per_slot, slots=1)
    return sum(
        top_up(database, bell, model=model, window=window, resend_s=settings.resend_s)
        for model in open_models(database)
    )
