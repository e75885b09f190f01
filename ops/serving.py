"""The commands that run things: worker, up, demo."""

import typer

from ops.arguments import examples


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=examples("caption-audit worker", "AUDIT_DEVICES=0,1 caption-audit worker"))(worker)


def worker() -> int:
    """Run one worker in this process: it judges what is submitted for AUDIT_MODEL, until TERM or Ctrl-C."""
    from audit.settings import read_settings
    from worker.app import run_worker

    return run_worker(read_settings())
