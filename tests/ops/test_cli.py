"""Errors as one line, and text that cannot harm a terminal."""

import resource
import subprocess
import unicodedata
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.exporting import COLUMNS, extra_names, written_whole
from ops.text import duration, one_line, plain
from tests.ops.conftest import COMMAND, Cli


def test_an_unexpected_error_is_one_line_and_its_traceback_is_there_when_asked(cli: Cli, tmp_path: Path) -> None:
    """A person gets a line, whoever mends it gets the traceback, wherever --debug stands."""
    (tmp_path / "junk.db").write_bytes(b"this is no database, " * 100)
    junk = {"DATABASE_URL": f"sqlite:///{tmp_path}/junk.db"}
    failed = cli("status", **junk)
    assert failed.returncode != 0
    assert len(failed.stderr.splitlines()) == 1
    assert "not a database" in failed.stderr
    for arguments in (["--debug", "status"], ["status", "--debug"]):
        assert "Traceback" in cli(*arguments, **junk).stderr


def test_an_error_of_the_file_system_names_the_file(cli: Cli, tmp_path: Path) -> None:
    """`Permission denied` alone helps nobody."""
    (tmp_path / "file").write_text("")
    failed = cli("up", AUDIT_HOME=str(tmp_path / "file"))
    assert failed.returncode == 2
    assert f"{tmp_path}/file: File exists; set AUDIT_HOME to a folder" in failed.stderr


def test_a_wrong_setting_is_named(cli: Cli) -> None:
    """The variable is in the line, so that it can be found in a deployment's files."""
    refused = cli("status", AUDIT_LEASE_S="soon")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("caption-audit: AUDIT_LEASE_S: ")


def test_version_and_bare_command_answer(cli: Cli) -> None:
    """The first two things that anybody types."""
    assert cli("version").stdout.startswith("caption-audit ")
    bare = cli()
    assert bare.returncode == 0
    assert "submit" in bare.stdout


@given(st.text())
def test_what_is_shown_holds_nothing_invisible(text: str) -> None:
    """No control, format, surrogate or separator character reaches a terminal, and nothing visible is lost."""
    shown = plain(text)
    assert all(unicodedata.category(one)[0] != "C" and one not in "\u2028\u2029" for one in shown)
    visible = [one for one in text if unicodedata.category(one)[0] != "C" and one not in "\u2028\u2029"]
    assert "".join(visible) == text or len(shown) > len(visible)
    assert "\n" not in one_line(text)
    assert plain(shown) == shown


@given(st.lists(st.sampled_from([*COLUMNS[:4], "extra_id", "extra_extra_id", "shop", ""]), unique=True))
def test_extra_columns_never_take_the_place_of_another(keys: list[str]) -> None:
    """Two columns of one name would lose one of them, silently."""
    names = extra_names(keys)
    assert list(names) == keys
    assert len(set(names.values()) | set(COLUMNS)) == len(keys) + len(COLUMNS)
    assert all(names[key] == key for key in keys if key not in COLUMNS)


def test_an_interrupted_export_leaves_no_part(tmp_path: Path) -> None:
    """Ctrl-C in the middle of ten million rows."""
    target = tmp_path / "out.csv"
    target.write_text("yesterday's")
    with suppress(KeyboardInterrupt), written_whole(str(target)) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("out.csv", "yesterday's")]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.04, "0.04 s"), (9.96, "10.0 s"), (59.4, "59 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")]
)
def test_durations_have_units(seconds: float, shown: str) -> None:
    """`3600` means nothing to somebody who waits."""
    assert duration(seconds) == shown


def test_help_answers_at_once_and_shows_examples(cli: Cli, environment: dict[str, str]) -> None:
    """A slow --help means that something heavy is imported where it should not be."""
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        helped = cli("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time: on an idle machine it is what a person waits, on a busy one it does not change.
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert helped.returncode == 0
    assert min(took) < 0.3
    script = "import sys, ops.cli; ops.cli.run(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([COMMAND[0], "-c", script], env=environment, capture_output=True, text=True, check=True)
    heavy = {"sqlalchemy", "pydantic", "celery", "torch", "rich", "redis", "psutil", "structlog", "asyncio"}
    assert not heavy & set(done.stderr.split())
    for command in ("submit", "status", "watch", "flagged", "export", "cancel", "sweep", "worker", "up", "demo"):
        assert command in helped.stdout


def test_every_command_shows_examples(cli_here: Cli) -> None:
    """A command to copy says more than a list of options."""
    commands = ["submit", "status", "watch", "flagged", "export", "cancel", "sweep", "worker", "up", "demo"]
    for command in [*commands, "db upgrade", "db check", "db current"]:
        helped = cli_here(*command.split(), "--help").stdout
        assert "Examples:" in helped
        assert f"caption-audit {command}" in helped
