"""The commands about models: fetch, verify, list, show."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.arguments import JsonOption, examples

if TYPE_CHECKING:
    from audit.settings import Settings

LARGE = "iic/ofa_visual-entailment_snli-ve_large_en"
SMALL = "iic/ofa_visual-entailment_snli-ve_distilled_v2_en"
NEWEST = "master"
"""ModelScope's usual branch."""

app = typer.Typer(help="Models: fetch, verify, list, show.", rich_markup_mode=None, no_args_is_help=True)
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[ID|DIR]",
        help="`demo`, a ModelScope id (with @REVISION for one of several), or a directory; default: AUDIT_MODEL.",
    ),
]


def register(parent: typer.Typer) -> None:
    """Add the group of commands."""
    parent.add_typer(app, name="model")


@app.command(
    epilog=examples(
        "caption-audit model fetch",
        f"caption-audit model fetch {SMALL}",
        f"caption-audit model fetch {LARGE} --revision v1.0.1",
        "MODELSCOPE_ENDPOINT=https://mirror.example.com caption-audit model fetch",
        "HTTPS_PROXY=http://proxy.example.com:3128 caption-audit model fetch --json",
    )
)
def fetch(
    model: Annotated[str, typer.Argument(metavar="[ID]", help="The model's ModelScope id.")] = LARGE,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit at the hub.")] = NEWEST,
    as_json: JsonOption = False,
) -> None:
    """Download a model into AUDIT_HOME/models, as safetensors and with checksums; what broke off goes on.

    Exit status 69 when the hub does not answer, 75 when another fetch of it is at work, 2 for an id, a revision or a
    model that cannot be used, 1 for a full disk or wrong bytes.
    """
    from ops.model_fetching import fetch_and_tell

    fetch_and_tell(_settings(), model, revision=revision, as_json=as_json)


@app.command(
    epilog=examples(
        "caption-audit model verify",
        f"caption-audit model verify {LARGE}",
        "caption-audit model verify /models/ofa_large --write-checksums",
    )
)
def verify(
    model: ModelArgument = None,
    write: Annotated[
        bool,
        typer.Option("--write-checksums", help="Write SHA256SUMS of a folder that you know to be good, then check it."),
    ] = False,
    as_json: JsonOption = False,
) -> int:
    """Compare every file with SHA256SUMS, and see that the engine can use the model; exit status 1 when not."""
    from ops.model_showing import verify_and_tell

    return verify_and_tell(_chosen(model), write=write, as_json=as_json)


@app.command("list", epilog=examples("caption-audit model list", "caption-audit model list --json"))
def list_models(as_json: JsonOption = False) -> None:
    """List what is under AUDIT_HOME/models, and the shipped model; `*` marks the one that AUDIT_MODEL uses."""
    from ops.model_showing import list_and_tell

    list_and_tell(_settings(), as_json=as_json)


@app.command(epilog=examples("caption-audit model show", f"caption-audit model show {LARGE} --json"))
def show(model: ModelArgument = None, as_json: JsonOption = False) -> int:
    """Show a model's architecture, prompts, labels and limits, and what the engine does with them.

    Exit status 1 when the engine refuses it.
    """
    from ops.model_showing import show_and_tell

    return show_and_tell(_chosen(model), as_json=as_json)


def _settings() -> "Settings":
    from audit.settings import read_settings

    return read_settings()


def _chosen(model: str | None) -> "Settings":
    """The settings, with another model if one is named; a directory may be named as the shell sees it."""
    settings = _settings()
    if model is None:
        return settings
    named = str(Path(model).resolve()) if Path(model).is_dir() and model != "demo" else model
    return settings.model_copy(update={"model": named})


def note(text: str) -> None:
    """A line for a person, beside the output that a script reads."""
    from ops.text import one_line

    print(one_line(text), file=sys.stderr, flush=True)
