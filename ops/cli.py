"""The command `caption-audit`: every error is one readable line on stderr and an exit status that scripts can use.

0 ok, 1 failed, 2 usage, 3 done with failures, 69 unavailable, 75 try later, 130 interrupted. Nothing heavy is imported
before a command runs, so that --help answers at once.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from audit.errors import AuditError
from ops import (
    archive,
    asking,
    baseline,
    doing,
    forecast,
    health,
    migrating,
    modeling,
    queueing,
    reporting,
    retrying,
    serving,
    submitting,
    verifying,
)
from ops.arguments import examples
from ops.doctor import command as doctor
from ops.text import one_line

app = typer.Typer(
    name="caption-audit",
    rich_markup_mode=None,  # plain help: importing rich alone takes half of what --help may
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
for part in (
    *(submitting, asking, doing, retrying, reporting, archive, queueing, health, doctor, baseline, forecast),
    *(serving, modeling, verifying, migrating),
):
    part.register(app)


@app.callback(help="Audit image/caption pairs in bulk: does the picture show what the caption says? Yes, No or Maybe.")
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Take the options that every command has; --debug is read before parsing, so it may stand anywhere."""


@app.command(epilog=examples("caption-audit version"))
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(f"caption-audit {installed('caption-audit')}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit status."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit status, never raises but for SystemExit from a broken pipe."""
    debug = "--debug" in arguments
    rest = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a caption is no error
    try:
        status = get_command(app).main(args=rest, prog_name="caption-audit", standalone_mode=False)
        sys.stdout.flush()
    except Exception as error:  # noqa: BLE001 - the last door: whatever happened, a person gets one line
        if debug:
            import traceback

            traceback.print_exc()
        return _refuse(error)
    except KeyboardInterrupt:
        return 130
    return int(status or 0)


def _refuse(error: Exception) -> int:
    """Say what was wrong in one line; returns the exit status."""
    if isinstance(error, AuditError):
        _say(f"{error.detail} ({error.code})")
        return error.exit_status
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "caption-audit"
        what = error.format_message().replace("Value error, ", "").rstrip(".")
        _say(f"{what}: see `{command} --help`")
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        return 1
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        _say(f"{error.strerror or error}{where}")
        return 1
    _say(f"unexpected {type(error).__name__}: {error} (run with --debug for the traceback)")
    return 1


def _say(text: str) -> None:
    with suppress(OSError):  # when stderr is gone as well, the exit status is all that is left to say
        print(f"caption-audit: {one_line(text)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
