"""The code as it was with schema 0002, from this repository's history, to run beside today's."""

import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from audit.settings import Settings
from tests.support.running import ROOT, variables

COMMIT = "e24fd9e"


def unpacked(folder: Path) -> Path:
    """The old code's folder; skips the test where the history does not reach that far."""
    made = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"this checkout has no commit {COMMIT} (a shallow clone, or no clone at all)")
    with tarfile.open(fileobj=BytesIO(made.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def command(*arguments: str, settings: Settings, code: Path = ROOT) -> str:
    """Run `caption-audit` of that code to its end, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli", *arguments],
        cwd=code,
        env={**os.environ, **variables(settings)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout
