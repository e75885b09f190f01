"""The systemd unit: what it starts exists, and systemd understands every line of it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from audit.settings import read_settings
from tests.support.command_lines import ROOT, invocations, refusal

UNIT = ROOT / "deploy" / "systemd" / "caption-audit-worker.service"
KILLING_S = 6.0
"""What comes after the grace period: killed processes are waited for, and their chunks given back."""


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


def test_every_service_manager_has_more_patience_than_the_worker_takes() -> None:
    """A KILL before the grace period is over would be a death, and an attempt, for each chunk in hand."""
    text = UNIT.read_text()
    needed_s = read_settings({}).stop_grace_s + KILLING_S
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[0]) > needed_s
    assert "KillMode=mixed" in text.splitlines(), "children are told by the main process, and killed with it at the end"
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["worker"]
    assert int(compose["stop_grace_period"].removesuffix("s")) > needed_s
    whole = (ROOT / "deploy" / "compose" / "caption-audit.service").read_text()
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", whole, re.MULTILINE)[0]) > needed_s
    assert needed_s < 35.0, "and about what Kubernetes gives a pod that says nothing"


def test_every_supervisor_gives_up_after_as_many_tries_and_none_stands_on_another() -> None:
    """docs/supervision.md has them side by side; a guard inside of a unit would make 25 tries of five.

    And the watchdog's patience is longer than a worker's longest silence, that of an outage.
    """
    text, settings = UNIT.read_text(), read_settings({})
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["worker"]
    assert int(re.findall(r"^StartLimitBurst=(\d+)$", text, re.MULTILINE)[0]) == settings.guard_tries
    assert compose["restart"] == f"on-failure:{settings.guard_tries}"
    assert compose["command"] == ["worker"]
    assert "--guard" not in text
    assert "Type=notify" in text.splitlines()
    assert int(re.findall(r"^WatchdogSec=(\d+)$", text, re.MULTILINE)[0]) >= 2 * settings.guard_silent_s
    slow_start_s = settings.start_wait_s + settings.canary_limit_s
    assert int(re.findall(r"^TimeoutStartSec=(\d+)$", text, re.MULTILINE)[0]) > slow_start_s


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """It ignores a line that it does not know, with a warning that nobody reads."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    text = UNIT.read_text()
    assert "KillMod" in verify(text.replace("KillMode=", "KillMod="), tmp_path)
    assert verify(text, tmp_path) == ""
