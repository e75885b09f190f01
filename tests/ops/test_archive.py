"""The command archive: a month's files, whole or not at all, that say what the ledger says."""

import fcntl
import hashlib
import json
import os
import subprocess
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from audit.errors import Transient, UsageError
from audit.pair import Pair
from audit.verdict import Outcome
from db.archive_queries import ledger_now
from db.engine import Database
from db.exports import outcomes
from ops.archive_folder import filled_folder, is_archive
from ops.archiving import archive, month_of, parse_month
from ops.arguments import ExportFormat
from ops.report.trend import trend_page
from ops.trends import Trend, changes
from tests.ops.conftest import Cli
from tests.support.claims import broken, no, yes
from tests.support.histories import judged, submitted
from tests.support.ledger_rows import a_pair, add_batch, add_chunk, add_pair
from tests.support.registering import entry
from tests.support.report_pages import HOSTILE, SCRIPT, Page
from tests.support.report_pages import no as no_with

SEPTEMBER, OCTOBER = parse_month("2025-09"), parse_month("2025-10")
HOUR = 3600.0
FILES = ["SHA256SUMS", "outcomes.parquet", "trend.html", "trend.json"]


def three_kinds(pair: Pair) -> Outcome:
    return (yes, no, broken)[pair.row % 3](pair)


def two_months(database: Database) -> None:
    """Six outcomes in September; in October nine of two batches, with two rows refused when they were submitted."""
    judged(database, submitted(database, 6, at=SEPTEMBER.since), at=SEPTEMBER.since + HOUR)
    judged(database, submitted(database, 6, at=SEPTEMBER.since), at=OCTOBER.since + 30 * HOUR, result=three_kinds)
    judged(database, submitted(database, [entry(0, failure="x"), entry(1)], at=OCTOBER.since), at=OCTOBER.until - 0.5)
    judged(database, submitted(database, 2, at=OCTOBER.since), at=OCTOBER.until)


def folder_of(home: Path, month: str = "2025-10") -> Path:
    return home / "archive" / month


@pytest.fixture
def home(environment: dict[str, str]) -> Path:
    return Path(environment["AUDIT_HOME"])


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_a_month_is_archived_whole_and_adds_up(cli: Cli, database: Database, ledger_url: str, home: Path) -> None:
    """Every outcome of the month and none of another, with its pair; the checksums are those that sha256sum reads."""
    two_months(database)
    done = cli("archive", "--month", "2025-10", DATABASE_URL=ledger_url)
    assert done.returncode == 0, done.stderr
    folder = folder_of(home)
    assert done.stdout == f"wrote {folder}: 8 outcomes of 2 batches\n"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=False).returncode == 0
    rows = pq.read_table(folder / "outcomes.parquet").to_pylist()
    due = [(2, row.row) for row in outcomes(database, 2)] + [(3, 0), (3, 1)]  # type: ignore[arg-type]  # numbers
    assert [(row["batch"], row["row"]) for row in rows] == due
    assert Counter(row["label"] for row in rows) == {"Yes": 3, "No": 2, None: 3}
    assert {row["caption"] for row in rows} == {"a dog"}
    told = json.loads((folder / "trend.json").read_text())
    assert (told["month"], told["partial"], told["batches"]) == ("2025-10", False, 2)
    assert told["totals"]["labels"] == {"Yes": 3, "No": 2, "Maybe": 0}
    assert told["totals"]["failures"] == {"image_empty": 2, "row_invalid": 1}
    assert [(day["day"], day["outcomes"]) for day in told["days"]] == [
        ("2025-10-01", 1),
        ("2025-10-02", 6),
        ("2025-10-31", 1),
    ]
    assert (told["before"]["month"], told["before"]["source"]) == ("2025-09", "ledger")
    assert told["changes"]["outcomes"] == {"before": 6, "now": 8, "difference": 2}
    assert hidden(folder.parent) == []


def test_a_second_run_finds_it_complete_and_touches_nothing(cli_here: Cli, ledger: Database, home: Path) -> None:
    """A timer that fires twice, or a person who is not sure, must not cost anything; --again is for who is."""
    two_months(ledger)
    assert cli_here("archive", "--month", "2025-10").returncode == 0
    folder = folder_of(home)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = cli_here("archive", "--month", "2025-10")
    assert (done.returncode, done.stderr) == (0, "")
    assert "is complete: 8 outcomes of 2 batches, every checksum is right" in done.stdout
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    anew = cli_here("archive", "--month", "2025-10", "--again", "--format", "jsonl", "--json")
    assert json.loads(anew.stdout) == {
        "month": "2025-10",
        "folder": str(folder),
        "outcomes": 8,
        "batches": 2,
        "partial": False,
        "made": True,
    }
    assert sorted(path.name for path in folder.iterdir()) == [FILES[0], "outcomes.jsonl", *FILES[2:]]


def test_a_damaged_archive_is_told_and_kept(cli_here: Cli, ledger: Database, home: Path) -> None:
    """Silence about a flipped bit would be worse than no archive; and whoever can mend it needs what is there."""
    two_months(ledger)
    assert cli_here("archive", "--month", "2025-10").returncode == 0
    damaged = folder_of(home) / "outcomes.parquet"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    (folder_of(home) / "trend.html").unlink()
    done = cli_here("archive", "--month", "2025-10")
    assert done.returncode == 1
    assert "outcomes.parquet is not as it was written; trend.html is missing" in done.stderr
    assert damaged.read_bytes() == data
    assert cli_here("archive", "--month", "2025-10", "--again").returncode == 0
    assert sorted(path.name for path in folder_of(home).iterdir()) == FILES


def test_a_month_without_an_outcome_says_so_and_makes_nothing(cli_here: Cli, ledger: Database, home: Path) -> None:
    """An empty file would look like a month in which everything was lost."""
    two_months(ledger)
    done = cli_here("archive", "--month", "2025-08")
    assert (done.returncode, done.stdout) == (0, "nothing was judged in 2025-08: no archive was made\n")
    assert json.loads(cli_here("archive", "--month", "2025-08", "--json").stdout)["folder"] is None
    assert not folder_of(home, "2025-08").exists()
    assert hidden(home / "archive") == []


def made(database: Database, target: Path, *, now: float, month: str = "2025-10") -> Any:
    return archive(
        database,
        parse_month(month),
        target=target,
        kind=ExportFormat.JSONL,
        again=False,
        now=now,
        show=lambda _line: None,
    )


def test_a_month_that_is_not_over_is_partial_and_made_anew(ledger: Database, tmp_path: Path) -> None:
    """What was archived on the 20th must not stand for the month; nor what was archived a second after its end."""
    two_months(ledger)
    target = tmp_path / "2025-10"
    for now in (OCTOBER.since + 48 * HOUR, OCTOBER.until - 1, OCTOBER.until + 1):
        done = made(ledger, target, now=now)
        assert (done.partial, done.made) == (True, True)
        assert "The month was not over" in (target / "trend.html").read_text()
    done = made(ledger, target, now=OCTOBER.until + 301)
    assert (done.partial, done.made) == (False, True)
    assert made(ledger, target, now=OCTOBER.until + 302).made is False
    with pytest.raises(UsageError, match="has not begun"):
        made(ledger, tmp_path / "later", now=OCTOBER.since - 1)


def test_an_error_half_way_leaves_what_was_there(
    ledger: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk or a ledger that goes away must not cost last night's archive, nor leave half of a new one."""
    two_months(ledger)
    target = tmp_path / "2025-10"
    made(ledger, target, now=OCTOBER.until - 1)
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def full(_told: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ops.archiving.trend_page", full)
    for again in (target, tmp_path / "new"):
        with pytest.raises(OSError, match="No space"):
            made(ledger, again, now=OCTOBER.until - 1)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir() if "2025" in path.name or path.name == "new") == ["2025-10"]
    assert [name for name in hidden(tmp_path) if "2025" in name or "new" in name] == []


def test_what_a_killed_run_left_is_cleared_and_a_running_one_is_waited_for(ledger: Database, tmp_path: Path) -> None:
    """A part that nobody writes any more is in nobody's way; a part that somebody writes is his."""
    two_months(ledger)
    target, part = tmp_path / "2025-10", tmp_path / ".2025-10.part"
    part.mkdir()
    (part / "outcomes.jsonl").write_text("half a line")
    descriptor = os.open(part, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(Transient, match="another process writes") as refused:
        made(ledger, target, now=OCTOBER.until + HOUR)
    assert refused.value.exit_status == 75
    assert part.exists()
    os.close(descriptor)  # as the kernel does for a killed one
    assert made(ledger, target, now=OCTOBER.until + HOUR).outcomes == 8
    assert not part.exists()


def test_a_run_that_was_killed_between_two_renames_is_made_good(tmp_path: Path) -> None:
    """Then the old archive lies beside its name for the moment until the next run."""
    target = tmp_path / "2025-10"
    with filled_folder(target) as part:
        (part / "a").write_text("first")
    os.rename(target, tmp_path / ".2025-10.old")
    with pytest.raises(RuntimeError, match="no"), filled_folder(target):
        raise RuntimeError("no")
    assert (target / "a").read_text() == "first"
    assert is_archive(target)


def test_nothing_else_is_overwritten(cli_here: Cli, ledger: Database, tmp_path: Path) -> None:
    """A folder of somebody's, a file, another month's archive: none of them is this month's."""
    two_months(ledger)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter").write_text("dear")
    (tmp_path / "file").write_text("dear")
    for name in ("mine", "file"):
        for more in ((), ("--again",)):
            done = cli_here("archive", "--month", "2025-10", "-o", str(tmp_path / name), *more)
            assert done.returncode == 2
            assert "is no archive of this command" in done.stderr
    assert [path.name for path in mine.iterdir()] == ["letter"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert cli_here("archive", "--month", "2025-09", "-o", str(empty)).returncode == 0
    other = cli_here("archive", "--month", "2025-10", "-o", str(empty))
    assert (other.returncode, "holds 2025-09, not 2025-10" in other.stderr) == (2, True)


def test_the_month_before_may_be_known_from_its_archive_alone(cli_here: Cli, ledger: Database, home: Path) -> None:
    """Batches are removed from a ledger in time; what their month was like is not lost with them."""
    two_months(ledger)
    assert cli_here("archive", "--month", "2025-09").returncode == 0
    ledger.transact(lambda connection: connection.exec_driver_sql("DELETE FROM batches WHERE id = 1"))
    assert cli_here("archive", "--month", "2025-10").returncode == 0
    told = json.loads((folder_of(home) / "trend.json").read_text())
    assert (told["before"]["source"], told["before"]["totals"]["outcomes"]) == ("archive", 6)
    page = Page((folder_of(home) / "trend.html").read_text())
    assert "2025-09 is from its archive" in page.text


def test_the_ledger_is_as_it_was(cli_here: Cli, ledger: Database, sqlite_url: str) -> None:
    """An archive is a copy; removing is a decision of its own."""
    two_months(ledger)

    def dump() -> str:
        with ledger.reading() as connection:
            raw: Any = connection.connection.driver_connection
            return hashlib.sha256("\n".join(raw.iterdump()).encode()).hexdigest()

    before = dump()
    assert cli_here("archive", "--month", "2025-10").returncode == 0
    assert dump() == before


@pytest.mark.parametrize(
    "text", ["2025", "2025-13", "2025-00", "2025-1", "25-10", "2025-10-01", "1969-12", "x" * 500, ""]
)
def test_what_is_no_month_is_refused(cli_here: Cli, ledger: Database, text: str) -> None:
    """One parser at the door."""
    done = cli_here("archive", "--month", text)
    assert done.returncode == 2
    assert "is no month: write it as 2026-10" in done.stderr


def test_months_meet_without_a_gap() -> None:
    """Also at the end of a year, and in a leap year."""
    month = parse_month("2023-11")
    for _ in range(20):
        behind = month_of(month.until)
        assert behind.since == month.until
        assert behind.before() == month
        month = behind
    assert month.name == "2025-07"
    assert datetime.fromtimestamp(parse_month("2024-02").until - 1, UTC).day == 29


def test_without_a_month_it_is_the_one_before_this_one(cli_here: Cli, ledger: Database) -> None:
    """So that a timer needs no arithmetic."""
    now = ledger_now(ledger)
    done = cli_here("archive", "--json")
    assert json.loads(done.stdout)["month"] in {month_of(now).before().name, month_of(now + 600).before().name}


def test_hostile_texts_are_shown_and_never_obeyed(ledger: Database, tmp_path: Path) -> None:
    """A model's name, a revision, a code, a batch's name and an extra column are strangers' texts, in every file."""
    batch = add_batch(ledger, name=SCRIPT, created_at=OCTOBER.since)
    add_chunk(ledger, batch, 0, "done", pairs=len(HOSTILE), no=len(HOSTILE), claimed_at=1, done_at=OCTOBER.until - 1)
    for row, hostile in enumerate(HOSTILE):
        text = hostile.replace("\0", "").encode("utf-8", "replace").decode()[:10_000]
        pair = a_pair(row, caption=hostile, extra={"batch": hostile, hostile: "x"})
        told: dict[str, Any] = {**no_with(0.9), "model": text, "model_revision": text}
        if row % 2:
            told = {"failure_code": text, "failure_detail": text, "model": text, "model_revision": text}
        add_pair(ledger, batch, pair, **told, judged_at=OCTOBER.since + row)
    for kind in ExportFormat:
        target = tmp_path / kind.value
        with_kind = archive(
            ledger, OCTOBER, target=target, kind=kind, again=False, now=OCTOBER.until + HOUR, show=lambda _line: None
        )
        assert with_kind.outcomes == len(HOSTILE)
    html = (tmp_path / "parquet" / "trend.html").read_text()
    page = Page(html)
    assert not {"script", "iframe", "object", "embed", "form", "a", "base", "img"} & {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "action")], tag
    assert "<script>" in page.text
    assert not any(mark in html for mark in ("\u202e", "\x1b", "\u200b"))
    rows = [json.loads(line) for line in (tmp_path / "jsonl" / "outcomes.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(len(HOSTILE)))
    assert all(set(json.loads(row["extra"])) >= {"batch"} for row in rows)


def test_a_page_of_a_lone_month_needs_no_month_before() -> None:
    """The first month of a ledger has nothing to be compared with."""
    trend = Trend()
    fact = {"model": "demo", "model_revision": "r1", "label": "Yes", "p_yes": 0.9, "cached": True, "decode_ms": 2.0}
    trend.add("2025-10-01", {**fact, "model_ms": None})
    figures = trend.to_json()
    same = {"month": "2025-10", "since": "", "until": "", "made_at": "", "partial": False, "batches": 1}
    text = Page(trend_page({**same, **figures, "before": None, "changes": {}})).text
    assert "Nothing is known of the month before" in text
    before = {"month": "2025-09", "source": "ledger", "totals": figures["totals"]}
    both = {**same, **figures, "before": before, "changes": changes(figures["totals"], figures["totals"])}
    assert "+0.0 points" in Page(trend_page(both)).text
