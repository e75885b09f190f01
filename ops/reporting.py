"""The command report: a batch as one HTML file."""

import typer


def register(app: typer.Typer) -> None:  # noqa: ARG001 - filled in next
    """Add the commands."""
