"""The demo: a newcomer's first minute."""

import json
import sqlite3
from pathlib import Path

from audit.settings import DEMO_MODEL
from db.queries import OutcomeRow
from ops.demo import Accuracy, accuracy
from tests.conftest import missing
from tests.ops.conftest import Cli

PICTURES = 12
BROKEN = 10


def a_row(row: int, label: str | None, known: str, *, axis: str = "colour", flagged: bool = False) -> OutcomeRow:
    """An outcome of a sample."""
    third = 1 / 3 if label else None
    names = ("image", "caption", "worker", "device", "model", "model_revision", "engine", "precision")
    return OutcomeRow(
        id=f"s{row}",
        premise=None,
        label=label,
        p_yes=third,
        p_no=third,
        p_maybe=third,
        flagged=flagged,
        flags=(),
        failure_code=None if label else "image_empty",
        failure_detail=None,
        row=row,
        attempt=1,
        cached=False,
        decode_ms=None,
        model_ms=None,
        judged_at="",
        extra={"known_label": known, "axis": axis},
        **dict.fromkeys(names, ""),
    )


def test_accuracy_counts_what_is_known_and_names_what_is_odd() -> None:
    """The number on the screen is a claim about the model: broken samples must neither help nor hurt it."""
    rows = [
        a_row(0, "Yes", "Yes"),
        a_row(1, "No", "No", flagged=True),
        a_row(2, "No", "Maybe", flagged=True),
        a_row(3, "Yes", "No"),
        a_row(4, None, "", axis="broken"),
        a_row(5, "Yes", "", axis="broken"),
        a_row(6, None, "Yes"),
    ]
    assert accuracy(rows) == Accuracy(
        judged=4, right=2, known_no=2, known_no_flagged=1, flagged=2, unexpected=("s5", "s6")
    )


def test_the_demo_judges_everything_twice_and_leaves_a_ledger(cli: Cli, tmp_path: Path) -> None:
    """Both runs judge every pair anew, tell what happened, and end with commands that can be copied."""
    if not (DEMO_MODEL / "configuration.json").exists():
        missing("demo/model")
    # Somebody's real ledger and queue, which the demo must not touch; the stub engine answers without the model.
    others = {"DATABASE_URL": "postgresql://audit:secret@127.0.0.1:1/real", "REDIS_URL": "redis://127.0.0.1:1/0"}
    for _ in range(2):
        done = cli("demo", "--pairs", str(PICTURES), AUDIT_ENGINE="stub", AUDIT_FEED_EVERY_S="0.2", **others)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "the demo ignores DATABASE_URL" in done.stderr
    assert "secret" not in done.stderr + done.stdout
    for part in ("flagged mismatches", "counts    Yes", "failures  ", "file_missing 1", "pairs/s", "what to try next:"):
        assert part in done.stdout
    assert f"of {PICTURES} drawn pairs got their known label" in done.stdout
    with sqlite3.connect(tmp_path / "home" / "audit.db") as ledger:
        counts = ledger.execute("SELECT batch, count(label), count(failure_code) FROM outcomes GROUP BY batch")
        assert [tuple(row[1:]) for row in counts] == [(PICTURES, BROKEN), (PICTURES, BROKEN)]
        assert ledger.execute("SELECT count(*) FROM outcomes WHERE cached").fetchone() == (0,)
    listed = json.loads(cli("status", "--json").stdout)
    assert [seen["state"] for seen in listed] == ["done", "done"]
