"""The commands that look at the running system: queue, workers, flower."""

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
