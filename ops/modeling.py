"""The commands about models: fetch, verify, list, show."""

import typer


def register(app: typer.Typer) -> None:  # noqa: ARG001 - filled in next
    """Add the commands."""
