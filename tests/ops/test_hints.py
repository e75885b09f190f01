"""Hints: a command that is shown can be pasted, whichever way this one was called."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from db.engine import Database
from ops.hints import home_prefix
from tests.conftest import make_settings


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The command as an installation makes it, in a folder that PATH does not name."""
    path = tmp_path / "bin" / "caption-audit"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nfrom ops.cli import main\n\nmain()\n")
    path.chmod(0o755)
    return path


def hint(called: str, environment: dict[str, str], folder: Path) -> str:
    """What an empty ledger's `status` says is to be typed next."""
    done = subprocess.run(
        [called, "status"], env=environment, cwd=folder, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().removeprefix("no batches yet: ")


def test_a_hint_repeats_the_path_that_was_typed(
    script: Path, ledger: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    """A first user has no PATH set: the bare name would be "command not found"."""
    home = f"AUDIT_HOME={tmp_path}/home "
    assert hint("bin/caption-audit", environment, tmp_path) == f"{home}bin/caption-audit submit FILE"
    assert hint(str(script), environment, tmp_path) == f"{home}{script} submit FILE"


def test_a_hint_is_the_bare_name_only_where_path_finds_this_very_command(
    script: Path, ledger: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    """Another installation of the same name may be of another version, with another ledger."""
    home = f"AUDIT_HOME={tmp_path}/home "
    found = environment | {"PATH": f"{script.parent}{os.pathsep}{environment['PATH']}"}
    assert hint(str(script), found, tmp_path) == f"{home}caption-audit submit FILE"
    other = tmp_path / "other" / "caption-audit"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    hidden = environment | {"PATH": f"{other.parent}{os.pathsep}{environment['PATH']}"}
    assert hint("bin/caption-audit", hidden, tmp_path) == f"{home}bin/caption-audit submit FILE"


def test_the_home_is_named_unless_it_is_the_default_one(tmp_path: Path) -> None:
    """Another terminal does not have this one's AUDIT_HOME; and a folder may have a blank in its name."""
    usual = make_settings(tmp_path).model_copy(update={"home": Path(os.path.abspath("var"))})
    assert home_prefix(usual) == ""
    spaced = make_settings(tmp_path).model_copy(update={"home": Path("/srv/my audits")})
    assert home_prefix(spaced) == "AUDIT_HOME='/srv/my audits' "
