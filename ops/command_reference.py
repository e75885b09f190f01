"""The reference of every command, made from the commands themselves.

`python -m ops.command_reference` prints it; with `--check docs/commands.md` it compares the page with the code, with
`--write docs/commands.md` it replaces the page. Nothing in it depends on the terminal or on the machine.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.main import get_command

PROGRAM = "caption-audit"
EXIT_STATUSES = {
    0: "ok",
    1: "failed: what was asked for could not be done, or a check says no",
    2: "usage: an option, a setting, a file or a model is refused; trying again cannot help",
    3: "done, and some pairs failed",
    69: "unavailable: the ledger or another service does not answer, or a model does not load",
    75: "try later: Redis takes no messages; what was registered waits in the ledger",
    130: "interrupted",
}
INTRODUCTION = """\
<!-- Generated: python -m ops.command_reference --write docs/commands.md -->
# Commands

Every command of `caption-audit`, as its `--help` tells it. Every command also has `-h`, `--help`, and takes `--debug`,
which shows the traceback of an error. Settings are environment variables: see [the table](../README.md#settings).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command: `path` is what one types after `caption-audit`; `node` is typer's own object."""

    path: str
    node: Any
    context: Any

    @property
    def is_group(self) -> bool:
        """Whether it only holds other commands."""
        return isinstance(self.node, TyperGroup)

    @property
    def help(self) -> str:
        """The docstring: paragraphs parted by empty lines."""
        return inspect.cleandoc(self.node.help or "").replace("\b\n", "")

    @property
    def parameters(self) -> list[TyperArgument | TyperOption]:
        """Arguments and options that --help shows, but for --help itself."""
        kinds = (TyperArgument, TyperOption)
        return [one for one in self.node.params if isinstance(one, kinds) and not one.hidden]

    @property
    def examples(self) -> list[str]:
        """The lines below `Examples:`."""
        _, _, lines = (self.node.epilog or "").partition("Examples:\n")
        return [line.strip() for line in lines.splitlines() if line.strip()]


def commands() -> Iterator[Command]:
    """Every command and group in the order of --help, the bare program left out."""
    from ops.cli import app

    root = get_command(app)
    yield from _below(root, root.make_context(PROGRAM, [], resilient_parsing=True), ())


def page() -> str:
    """The whole page as Markdown."""
    found = list(commands())
    parts = [INTRODUCTION, _index(found), _statuses(), *(_section(one) for one in found)]
    return "\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line; returns 1 when a checked page is not what the code says."""
    parser = argparse.ArgumentParser(prog="python -m ops.command_reference", description=__doc__)
    parser.add_argument("--check", metavar="FILE", type=Path)
    parser.add_argument("--write", metavar="FILE", type=Path)
    chosen = parser.parse_args(arguments)
    if not chosen.check and not chosen.write:
        print(page(), end="")
    if chosen.write:
        chosen.write.write_text(page(), encoding="utf-8")
    if chosen.check and (not chosen.check.exists() or chosen.check.read_text(encoding="utf-8") != page()):
        cure = f"python -m ops.command_reference --write {chosen.check}"
        print(f"{chosen.check}: its commands are not those of the code: {cure}", file=sys.stderr)
        return 1
    return 0


def _below(group: Any, context: Any, path: tuple[str, ...]) -> Iterator[Command]:
    for name in group.list_commands(context):
        node = group.get_command(context, name)
        if node.hidden:
            continue
        below = node.make_context(name, [], parent=context, resilient_parsing=True)
        yield Command(path=" ".join((*path, name)), node=node, context=below)
        if isinstance(node, TyperGroup):
            yield from _below(node, below, (*path, name))


def _index(found: list[Command]) -> str:
    rows = [
        (f"[`{one.path}`](#{one.path.replace(' ', '-')})", _text(_first_line(one))) for one in found if not one.is_group
    ]
    return _table(("command", "what it does"), rows)


def _statuses() -> str:
    rows = [(str(status), meaning) for status, meaning in EXIT_STATUSES.items()]
    return "## Exit status\n\n" + _table(("status", "meaning"), rows)


def _section(one: Command) -> str:
    lines = [f"## {one.path}\n", f"```text\n{_usage(one)}\n```\n", f"{_text(one.help)}\n"]
    arguments = [_row(one, parameter) for parameter in one.parameters if isinstance(parameter, TyperArgument)]
    options = [_row(one, parameter) for parameter in one.parameters if isinstance(parameter, TyperOption)]
    if arguments:
        lines.append(_table(("argument", "default", "meaning"), arguments))
    if options:
        lines.append(_table(("option", "default", "meaning"), options))
    if one.examples:
        lines.append("```\n" + "\n".join(one.examples) + "\n```\n")
    return "\n".join(lines)


def _usage(one: Command) -> str:
    words = [PROGRAM, one.path]
    if any(isinstance(parameter, TyperOption) for parameter in one.parameters):
        words.append("[OPTIONS]")
    for parameter in one.parameters:
        if isinstance(parameter, TyperArgument):
            name = _argument_name(parameter) + "..." * (parameter.nargs == -1)
            words.append(name if parameter.required else f"[{name}]")
    return " ".join([*words, "COMMAND"] if one.is_group else words)


def _row(one: Command, parameter: TyperArgument | TyperOption) -> tuple[str, str, str]:
    """What --help says of a parameter; its remarks in brackets (default, range, variable) get a column of their own."""
    name, told = parameter.get_help_record(one.context) or ("", "")
    meaning, _, remarks = told.partition("  [")
    if isinstance(parameter, TyperArgument):
        name = _argument_name(parameter)
    shown = [remark.removeprefix("default: ") for remark in remarks.removesuffix("]").split("; ") if remark]
    return f"`{name}`", ", ".join(f"`{remark}`" if remark != "required" else remark for remark in shown), _text(meaning)


def _argument_name(parameter: TyperArgument) -> str:
    return (parameter.metavar or parameter.name or "").strip("[]{}").upper()


def _first_line(one: Command) -> str:
    """The first sentence of the help, without what follows a semicolon or a colon."""
    return re.split(r"\.(?=\s|$)|[;:](?=\s)", one.help, maxsplit=1)[0]


def _text(text: str) -> str:
    """Help as Markdown: `<name>` outside of backticks would be taken for HTML and vanish."""
    parts = text.split("`")
    return "`".join(part if number % 2 else part.replace("<", "\\<") for number, part in enumerate(parts))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in [head, *rows]]
    lines = [f"| {' | '.join(line)} |" for line in cells]
    lines.insert(1, "|---" * len(head) + "|")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
