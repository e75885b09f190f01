"""The commands that run things: worker, up, demo."""

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
