"""The examples are run as a reader would run them."""

import subprocess
import sys
from pathlib import Path

from audit.settings import Settings
from tests.support.manifests import draw, small_manifest, write_csv
from tests.support.otlp_receiver import receiving
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


def test_a_business_rule_has_its_span_in_the_submissions_trace(sqlite_settings: Settings, tmp_path: Path) -> None:
    """The page on spans of one's own shows this file; what it says happens has to happen."""
    draw(tmp_path / "red.png")
    captions = {"cheap": "stub:no only $ 5", "dear": "stub:yes $ 900", "plain": "stub:no"}
    manifest = write_csv(tmp_path / "pairs.csv", [(name, "red.png", told) for name, told in captions.items()])
    with running(sqlite_settings, tmp_path), receiving() as receiver:
        told = {"PYTHONPATH": str(ROOT), "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "traced_rule.py"), str(manifest)],
            env=variables(sqlite_settings) | told,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 3, done.stderr
    assert done.stdout == "1 of 3 pairs break the rule: 'cheap'\n"
    spans = {span.name: span for span in receiver.spans}
    names = {span.id: span.name for span in receiver.spans}
    assert {name: names.get(span.parent) for name, span in spans.items()} == {
        "price_audit": None,
        "submit": "price_audit",
        "register": "submit",
        "ring": "submit",
        "rule.sure_of_prices": "price_audit",
    }
    rule = spans["rule.sure_of_prices"]
    assert (rule.failed, rule.status) == (True, "prices_not_sure")
    assert rule.attributes == {
        "caption_audit.batch": 1,
        "caption_audit.pairs": 3,
        "shop.broken": 1,
        "error.type": "prices_not_sure",
    }
