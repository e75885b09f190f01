"""The command report: a batch as one HTML file."""

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
