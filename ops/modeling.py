"""The commands about models: fetch, verify, list, show."""

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
