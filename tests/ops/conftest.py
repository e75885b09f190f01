"""The real command, as a subprocess, on a ledger of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from db.engine import Database, open_database
from ops.cli import run as run_command

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
COMMAND = (sys.executable, "-m", "ops.cli")
ROOT = Path(__file__).resolve().parents[2]


def bare(shown: str) -> str:
    """What was shown, with hints as on a machine where PATH finds the command and AUDIT_HOME is the default one."""
    return re.sub(r"AUDIT_HOME=\S+ (\S*/caption-audit|caption-audit|\S+ -m ops\.cli)(?= )", "caption-audit", shown)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What the command sees: a fresh AUDIT_HOME and nothing of the developer's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AUDIT_", "CELERY_"))}
    return kept | {
        "AUDIT_HOME": str(tmp_path / "home"),
        "AUDIT_HTTP_PORT": "0",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "160",
    }


@pytest.fixture
def cli(environment: dict[str, str], tmp_path: Path) -> Cli:
    """Run `caption-audit ...` to its end, away from the repository."""

    def run(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*COMMAND, *arguments],
            env=environment | env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=180,  # a machine that is busy with other things, not a limit of the command
            check=False,
        )

    return run


@pytest.fixture
def cli_here(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cli:
    """The same in this process, for tables of cases that differ in their arguments alone: a process takes a second."""

    def call(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        monkeypatch.chdir(tmp_path)
        for name, value in (environment | env).items():
            monkeypatch.setenv(name, value)
        status = run_command(list(arguments))
        shown = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, stdout=shown.out, stderr=shown.err)

    return call


@pytest.fixture
def ledger(sqlite_url: str) -> Iterator[Database]:
    """The ledger that `cli` asks: tmp_path/home/audit.db."""
    opened = open_database(sqlite_url)
    yield opened
    opened.close()
