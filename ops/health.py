"""The command health: does this host's worker prove that it can judge?"""

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
