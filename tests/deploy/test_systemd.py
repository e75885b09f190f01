"""The systemd unit: what it starts exists, and systemd understands every line of it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.command_lines import ROOT, invocations, refusal

UNIT = ROOT / "deploy" / "systemd" / "caption-audit-worker.service"


def verify(text: str, folder: Path) -> str:
    """What systemd says against a unit whose command and user exist here."""
    told = folder / "caption-audit-worker.service"
    told.write_text(text.replace("/opt/caption-audit/.venv/bin/caption-audit", shutil.which("true") or "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(told)], capture_output=True, text=True, check=False)
    return "\n".join(line for line in done.stderr.splitlines() if told.name in line)


def test_the_unit_starts_a_command_that_exists() -> None:
    """A unit with a typing error fails at the next boot."""
    (line,) = [line for line in UNIT.read_text().splitlines() if line.startswith("ExecStart=")]
    (arguments,) = invocations(line.removeprefix("ExecStart="))
    assert refusal(arguments) is None


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """It ignores a line that it does not know, with a warning that nobody reads."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    text = UNIT.read_text()
    assert "KillMod" in verify(text.replace("KillMode=", "KillMod="), tmp_path)
    assert verify(text, tmp_path) == ""
