"""The command doctor."""

import os
from typing import Annotated

import typer

from ops.arguments import JsonOption, examples
from ops.doctor.lines import Topic

LIMIT_S = 5.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "caption-audit doctor",
            "caption-audit doctor --only redis --only sql",
            "caption-audit doctor --json | jq '.checks[] | select(.state != \"ok\")'",
        )
    )(doctor)


def doctor(
    only: Annotated[
        list[Topic] | None,
        typer.Option("--only", show_default=False, help="Look at this topic alone; may be given again."),
    ] = None,
    limit: Annotated[
        float,
        typer.Option(
            min=1, max=600, metavar="SECONDS", help="Longest that a check may take; reading a model's files: more."
        ),
    ] = LIMIT_S,
    as_json: JsonOption = False,
) -> int:
    """Look at all that the system stands on, and say of each thing whether it is ok, a warning or wrong.

    Each line says what was found, what it means and what to do. Nothing is changed, nothing is made, no password is
    shown. A check that hangs or fails is a line of its own. `model` reads every byte of the model's files.

    Exit status 0: nothing is wrong, though there may be warnings; 1: something is wrong.
    """
    from ops.doctor.asking import ask
    from ops.doctor.environment import secrets_of
    from ops.doctor.showing import is_well, to_json, to_text
    from ops.doctor.topics import probes

    environ = dict(os.environ)
    chosen = [probe for probe in probes(environ, limit_s=limit) if not only or probe.topic in only]
    told = list(ask(chosen, secrets=secrets_of(environ)))
    if as_json:
        from ops.show import print_json

        print_json(to_json(told))
    else:
        print("\n".join(to_text(told)))
    return 0 if is_well(told) else 1
