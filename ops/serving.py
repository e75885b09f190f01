"""The commands that run things: worker, up, demo."""

from typing import Annotated

import typer

from ops.arguments import examples


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog=examples(
            "caption-audit worker",
            "AUDIT_DEVICES=0,1 caption-audit worker",
            "caption-audit worker --guard",
        )
    )(worker)
    app.command(epilog=examples("caption-audit up", "AUDIT_HOME=/data/audit AUDIT_MODEL=/models/ofa caption-audit up"))(
        up
    )
    app.command(epilog=examples("caption-audit demo"))(demo)


def worker(
    guard: Annotated[
        bool,
        typer.Option(
            "--guard",
            help="Watch it, and start it again when it dies, hangs or cannot judge; for where neither systemd nor a"
            " container's manager does.",
        ),
    ] = False,
) -> int:
    """Run one worker in this process: it judges what is submitted for AUDIT_MODEL, until TERM or Ctrl-C.

    With --guard in a child process. Exit status 69 after AUDIT_GUARD_TRIES restarts without progress; 2 and 69 of the
    worker itself are passed on at once. Several may run for one AUDIT_HOME, each with a worker of its own. Restarts are
    written to AUDIT_HOME/logs/restarts.jsonl.
    """
    from audit.settings import read_settings

    if guard:
        from ops.guard import run_guard

        return run_guard(read_settings())
    from worker.app import run_worker

    return run_worker(read_settings())


def up(
    flower: Annotated[bool, typer.Option("--flower/--no-flower", help="Show workers and chunks in a browser.")] = True,
) -> int:
    """Run Redis (unless REDIS_URL is set), a worker and Flower in this terminal, until Ctrl-C.

    One at a time for an AUDIT_HOME: a second one refuses and says which process holds it. Nothing needs to be cleaned
    up after a crash or a kill: the next one just works.
    """
    from audit.settings import read_settings
    from ops.local import up as run_up

    return run_up(read_settings(), flower=flower)


def demo(pairs: Annotated[int, typer.Option(min=1, max=100_000, help="How many pictures to draw.")] = 320) -> int:
    """Audit drawn sample pictures with the shipped model, from the file to the table of mismatches.

    Self-contained: a Redis and a worker of its own on SQLite under AUDIT_HOME, stopped at the end; the ledger stays.
    Exit status 0 when exactly those samples failed that are broken on purpose.
    """
    from ops.demo import run_demo

    return run_demo(pairs=pairs)
