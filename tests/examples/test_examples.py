"""The examples are run as a reader would run them."""

import subprocess
import sys
from pathlib import Path

from audit.settings import Settings
from tests.support.manifests import small_manifest
from tests.support.running import ROOT, running, variables

EXAMPLE = ROOT / "examples" / "submit_batch.py"


def test_a_batch_is_submitted_followed_and_shown_from_python(sqlite_settings: Settings, tmp_path: Path) -> None:
    """An example that does not run is worse than none."""
    manifest = small_manifest(tmp_path, pairs=6)
    with running(sqlite_settings, tmp_path):
        done = subprocess.run(
            [sys.executable, str(EXAMPLE), str(manifest)],
            env=variables(sqlite_settings) | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "6 pairs, new" in done.stdout
    assert "0 failed" in done.stdout.splitlines()[-1]


def test_the_example_explains_itself(tmp_path: Path) -> None:
    """Without an argument it says how it is used; a wrong one is one line, not a traceback."""
    home = {"AUDIT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    bare = subprocess.run([sys.executable, str(EXAMPLE)], env=home, capture_output=True, text=True, check=False)
    assert "examples/submit_batch.py pairs.csv" in bare.stderr
    wrong = subprocess.run(
        [sys.executable, str(EXAMPLE), "missing.csv"], env=home, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1
