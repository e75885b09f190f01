"""The commands that look at the running system: queue, workers, flower."""

from typing import Annotated

import typer

from ops.arguments import examples, ledger

WatchOption = Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON value on stdout, and nothing else; with --watch one a line.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog=examples(
            "caption-audit queue",
            "caption-audit queue --watch",
            "caption-audit queue --json | jq '[.lanes[].pairs_left] | add'",
        )
    )(queue)
    app.command(
        epilog=examples(
            "caption-audit workers",
            "caption-audit workers --watch",
            "caption-audit workers --json | jq '.[] | select(.deaths > 0)'",
        )
    )(workers)
    app.command(epilog=examples("caption-audit flower", "AUDIT_FLOWER_PORT=8080 caption-audit flower"))(flower)


def queue(as_json: JsonOption = False, watch: WatchOption = False) -> int:
    """Show what waits, per model and lane: messages in Redis, chunks in the ledger, the oldest age, tenants.

    `in Redis` are messages that wait for a worker, `taken` those that one has and did not acknowledge yet. Of the
    ledger's chunks, `pending` have no message, `sent` have one, `running` are being judged, `parked` wait for a person.
    A last line says what to do when something is off. Without Redis the ledger's part is shown, with exit status 69.
    """
    from ops.looking import show
    from ops.queue_view import look_at_queue

    with ledger() as (settings, database):
        return show(lambda: look_at_queue(settings, database), as_json=as_json, watch=watch)


def workers(as_json: JsonOption = False, watch: WatchOption = False) -> int:
    """Show every slot of every worker: device, model, chunk in hand, last canary, deaths, memory.

    Workers tell of themselves every few seconds; one that was not heard of for 30 s is `gone`, and forgotten after a
    day. `deaths` are processes lost, `recycled` those replaced as planned. Exit status 1 when no worker is alive.
    """
    from ops.looking import show
    from ops.worker_view import look_at_workers

    with ledger() as (settings, database):
        return show(lambda: look_at_workers(settings, database), as_json=as_json, watch=watch)


def flower() -> int:
    """Show workers and chunks in a browser, with Flower, until Ctrl-C: http://127.0.0.1:5555/ unless set otherwise.

    It asks for a user (AUDIT_FLOWER_USER) and a password: AUDIT_FLOWER_PASSWORD, or one that is made at the first start
    and kept in AUDIT_HOME/flower-password. It shows and changes nothing. `caption-audit up` starts one by itself.
    """
    from audit.settings import read_settings
    from ops.flower_server import serve

    return serve(read_settings())
