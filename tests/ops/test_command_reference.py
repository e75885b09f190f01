"""The reference of commands is the code's, complete, and what documents tell people to type can be typed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from audit.errors import AuditError
from ops import cli
from ops.command_reference import EXIT_STATUSES, PROGRAM, Command, commands, main, page
from tests.support.command_lines import ROOT, code_lines, documents, invocations, refusal, tokens

COMMANDS = [one for one in commands() if not one.is_group]
PAGE = ROOT / "docs" / "commands.md"


def by_path(one: Command) -> str:
    return one.path


def test_the_page_is_what_the_code_says() -> None:
    """A reference that can be out of date will be."""
    assert main(["--check", str(PAGE)]) == 0


def test_a_stale_page_is_noticed_and_can_be_renewed(tmp_path: Path) -> None:
    """A check that cannot fail checks nothing."""
    file = tmp_path / "commands.md"
    assert main(["--check", str(file)]) == 1
    assert main(["--write", str(file)]) == 0
    assert main(["--check", str(file)]) == 0
    file.write_text(file.read_text().replace("`--watch`", "`--follow`"))
    assert main(["--check", str(file)]) == 1


@pytest.mark.parametrize("columns", ["20", "300"])
def test_the_page_is_the_same_on_every_terminal(columns: str) -> None:
    """Who writes it must not matter, or two people write it back and forth."""
    environ = {**os.environ, "COLUMNS": columns, "TERMINAL_WIDTH": columns, "FORCE_COLOR": "1", "LC_ALL": "C.UTF-8"}
    told = subprocess.run(
        [sys.executable, "-m", "ops.command_reference"], env=environ, cwd=ROOT, capture_output=True, check=True
    )
    assert told.stdout.decode() == page()


@pytest.mark.parametrize("command", COMMANDS, ids=by_path)
def test_every_command_option_and_example_is_documented(command: Command) -> None:
    """A command that nobody can find, or an option that nobody explains, is not there."""
    section = page().split(f"\n## {command.path}\n", 1)[1].split("\n## ", 1)[0]
    assert command.help
    assert f"(#{command.path.replace(' ', '-')})" in page()
    for parameter in command.parameters:
        assert parameter.help, f"{command.path}: {parameter.name} has no help"
        names = [*parameter.opts, *parameter.secondary_opts] if parameter.param_type_name == "option" else []
        assert all(re.search(rf"^\| `[^`]*{name}\b", section, re.MULTILINE) for name in names), names
    assert command.examples, f"{command.path} shows no example"
    assert all(example in section for example in command.examples)


@pytest.mark.parametrize("command", COMMANDS, ids=by_path)
def test_the_examples_of_a_command_can_be_typed(command: Command) -> None:
    """An example with an option that does not exist is worse than none; and it must be about this command."""
    typed = [arguments for example in command.examples for arguments in invocations(example)]
    assert [told for arguments in typed if (told := refusal(arguments))] == []
    path = command.path.split()
    assert any(arguments[: len(path)] == path for arguments in typed)
    assert all(invocations(example) for example in command.examples), "an example that runs nothing of ours"


def test_what_documents_tell_people_to_type_can_be_typed() -> None:
    """Every command in a code block of every document, README and guides alike."""
    typed = [
        (document.relative_to(ROOT).as_posix(), arguments)
        for document in documents()
        for line in code_lines(document)
        for arguments in invocations(line)
    ]
    assert len([name for name, _ in typed if name == "README.md"]) >= 5
    assert [(name, told) for name, arguments in typed if (told := refusal(arguments))] == []


def test_commands_that_documents_name_exist() -> None:
    """Between backticks, in the middle of a sentence; there a command may stand without its arguments."""
    named = [
        (document.name, arguments)
        for document in documents()
        for token in tokens(document)
        if token.type == "code_inline"
        for arguments in invocations(token.content)
    ]
    assert len(named) >= 20
    told = [(name, refusal(arguments)) for name, arguments in named]
    assert [(name, text) for name, text in told if text and "Missing parameter" not in text] == []


def test_commands_in_the_readme_exist() -> None:
    """Its table is written by hand, for people; its first words have to be commands."""
    table = re.search(r"^\| command \| .*?\n\n", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert table is not None
    told = [words for row in table[0].splitlines()[2:] for words in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    paths = {one.path for one in COMMANDS}
    for words in told:
        first, *rest = words.replace("\\|", "|").split()
        named = [first] if first in paths else [f"{first} {name}" for name in rest[0].split("|")]
        assert set(named) <= paths, words


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("caption-audit submit a.csv --watch   # prints", [["submit", "a.csv", "--watch"]]),
        ("A=1 B=x,y .venv/bin/caption-audit worker", [["worker"]]),
        ("zcat a.gz | caption-audit submit - > log", [["submit", "-"]]),
        ("caption-audit db check || caption-audit db upgrade", [["db", "check"], ["db", "upgrade"]]),
        ("caption-audit export 1 | jq -r 'select(.a == \"|\").id'", [["export", "1"]]),
        ("docker run caption-audit worker", []),
        ("echo caption-audit", []),
    ],
)
def test_commands_are_found_in_shell_lines(line: str, found: list[list[str]]) -> None:
    """What this does not find is not checked."""
    assert invocations(line) == found


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "a.csv", "--wach"],
        ["submit"],
        ["sumbit", "a.csv"],
        ["flagged", "x"],
        ["db", "down"],
        ["watch", "1", "2"],
    ],
)
def test_what_cannot_be_typed_is_refused(arguments: list[str]) -> None:
    """The checks above stand on this one."""
    assert refusal(arguments)


def test_exit_statuses_are_those_of_the_errors() -> None:
    """Scripts branch on them: the table, the module that keeps them and the errors must agree."""
    raised = {error.exit_status for error in _below(AuditError)} | {AuditError.exit_status}
    assert raised <= EXIT_STATUSES.keys()
    in_docstring = {int(number) for number in re.findall(r"(?:^|, )(\d+) [a-z]", cli.__doc__ or "", re.MULTILINE)}
    in_readme = re.search(r"Exit status: (.*?)\.\n", (ROOT / "README.md").read_text(), re.DOTALL)
    assert in_readme is not None
    assert in_docstring == EXIT_STATUSES.keys()
    assert {int(number) for number in re.findall(r"\d+", in_readme[1])} == EXIT_STATUSES.keys()
    assert f"\n| 69 | {EXIT_STATUSES[69]} |\n" in page()
    assert PROGRAM in page()


def _below(kind: type[AuditError]) -> set[type[AuditError]]:
    return {one for child in kind.__subclasses__() for one in {child, *_below(child)}}
