"""The command health: does this host's worker prove that it can judge?"""

import typer


def register(app: typer.Typer) -> None:  # noqa: ARG001 - filled in next
    """Add the commands."""
