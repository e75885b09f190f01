"""The report: right numbers, shown with their SQL, in a page that no caption can break."""

import base64
import hashlib
import json
import re
import sqlite3
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from audit.pair import BatchId
from audit.settings import Settings
from db.engine import Database
from db.queries import outcomes, progress
from db.report_queries import CONFIDENCE_EDGES, MS_EDGES, ask_for_report
from ops.report.facts import Report, place_of
from ops.report.page import page
from ops.report.pictures import SIDE, Wanted, thumbnails
from tests.conftest import make_settings
from tests.ops.conftest import Cli
from tests.support.ledger_rows import a_pair, add_batch, add_chunk, add_pair
from tests.support.manifests import draw
from tests.support.report_pages import HOSTILE, SCRIPT, Page, hostile_batch, mixed_batch, no
from tests.worker.images.crashing import marked_root


def asked(database: Database, batch: BatchId, *, flagged: int = 60) -> Report:
    answers = ask_for_report(database, batch, flagged=flagged).answers
    return Report(seen=progress(database, batch), answers=answers, written_at=1_700_000_000.0)


def pasted(ledger_url: str, sql: str) -> list[dict[str, Any]]:
    """What sqlite3 or psql would say."""
    if ledger_url.startswith("sqlite"):
        connection = sqlite3.connect(ledger_url.removeprefix("sqlite:///"))
        connection.row_factory = sqlite3.Row
        rows = [dict(row) for row in connection.execute(sql)]
        connection.close()
        return rows
    with psycopg.connect(ledger_url, row_factory=dict_row) as asking:
        return asking.execute(sql.encode()).fetchall()


def plain_numbers(rows: Any) -> Any:
    return [{name: int(v) if isinstance(v, Decimal) else v for name, v in row.items()} for row in rows]


def test_numbers_are_those_of_the_outcomes(database: Database) -> None:
    """Counted once more in Python, on probabilities and times that lie exactly on the edges of bins."""
    mixed_batch(database, pairs=40, seed=2)
    batch = mixed_batch(database, pairs=400)
    report = asked(database, batch)
    rows = list(outcomes(database, batch))
    labels = Counter(row.label for row in rows)
    assert report.counts == {
        "submitted": 400,
        "yes": labels["Yes"],
        "no": labels["No"],
        "maybe": labels["Maybe"],
        "failed": labels[None],
        "flagged": labels["No"],
        "cancelled": 0,
        "remaining": 0,
    }
    assert report.cached == sum(row.cached for row in rows)
    for label in ("Yes", "No", "Maybe"):
        won = [getattr(row, f"p_{label.lower()}") for row in rows if row.label == label]
        bins = Counter(sum(p >= edge for edge in CONFIDENCE_EDGES) for p in won)
        assert report.confidence[label] == [bins[number] for number in range(len(CONFIDENCE_EDGES) + 1)]
    for stage in ("decode", "model"):
        times = sorted(ms for row in rows if row.label and (ms := getattr(row, f"{stage}_ms")) is not None)
        seen = report.stages[stage]
        assert (seen.pairs, seen.most_ms) == (len(times), times[-1])
        assert seen.mean_ms == pytest.approx(sum(times) / len(times))
        for percent, ms in seen.percentiles_ms.items():
            assert ms == times[-(-len(times) * percent // 100) - 1]
        bins = Counter(sum(ms >= edge for edge in MS_EDGES) for ms in times)
        assert list(seen.bins) == [bins[number] for number in range(len(MS_EDGES) + 1)]
    told = report.to_json()
    assert told["flags"] == Counter(flag for row in rows if row.label for flag in row.flags)
    assert told["failures"] == Counter(row.failure_code for row in rows if row.failure_code)
    surest = [row.row for row in outcomes(database, batch, flagged_only=True, order="p_no")]
    assert [row["row"] for row in told["flagged_pairs"]] == surest[:60]


@pytest.mark.parametrize(("pairs", "percentiles"), [(100, (50, 95, 99)), (3, (2, 3, 3)), (1, (1, 1, 1))])
def test_percentiles_are_nearest_rank(database: Database, pairs: int, percentiles: tuple[int, ...]) -> None:
    """Of the times 1 to 100 the 95th percentile is 95: a time that was measured, on both databases the same."""
    batch = add_batch(database)
    for row in range(pairs):
        add_pair(database, batch, a_pair(row), **no(0.9), decode_ms=float(pairs - row))
    found = asked(database, batch).stages
    assert tuple(found["decode"].percentiles_ms.values()) == percentiles
    assert found["model"].pairs == 0


def test_every_statement_that_is_shown_gives_the_numbers_when_it_is_pasted(
    cli: Cli, database: Database, ledger_url: str, tmp_path: Path
) -> None:
    """Whoever doubts a number can ask the ledger; nothing is in the page whose SQL is not."""
    batch = mixed_batch(database, pairs=60)
    assert cli("report", str(batch), "-o", "r.html", "--no-pictures", DATABASE_URL=ledger_url).returncode == 0
    told = json.loads(cli("report", str(batch), "--json", DATABASE_URL=ledger_url).stdout)
    shown = Page((tmp_path / "r.html").read_text()).sql
    report = asked(database, batch)
    assert set(shown) == set(told["sql"]) == set(report.answers)
    for name, sql in shown.items():
        assert told["sql"][name] in sql  # twice when two places show it
        assert plain_numbers(pasted(ledger_url, told["sql"][name])) == plain_numbers(report.rows(name)), name
    assert told["counts"] == plain_numbers(pasted(ledger_url, told["sql"]["counts"]))[0]
    assert {**told, "written_at": ""} == json.loads(json.dumps(report.to_json() | {"written_at": ""}))


def test_a_running_batch_is_marked_as_partial_and_adds_up(cli_here: Cli, ledger: Database, tmp_path: Path) -> None:
    """Numbers of a batch that runs must not be taken for its result."""
    batch = add_batch(ledger, name="shoes")
    add_chunk(ledger, batch, 0, "done", pairs=2, no=2, flagged=2, claimed_at=1.0, done_at=2.0)
    add_chunk(ledger, batch, 1, "pending", pairs=5)
    add_chunk(ledger, batch, 2, "cancelled", pairs=3, yes=1)
    done = cli_here("report", str(batch), "-o", "r.html")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"note: batch {batch} is running, the report is partial\nwrote r.html\n"
    text = " ".join(Page((tmp_path / "r.html").read_text()).text.split())
    assert "Partial. The batch was running when this was written: 5 of 10 pairs had no outcome yet" in text
    assert "10 submitted = 3 verdicts + 0 failures + 2 cancelled + 5 remaining" in text


def test_a_cancelled_batch_and_an_empty_one_have_reports(cli_here: Cli, ledger: Database, tmp_path: Path) -> None:
    """Nothing to plot is no reason to fail."""
    cancelled = add_batch(ledger, state="cancelled", cancelled_at=5.0)
    add_chunk(ledger, cancelled, 0, "cancelled", pairs=3)
    empty = add_batch(ledger)
    for batch, said in ((cancelled, "Incomplete. The batch is cancelled: 3 of 3"), (empty, "0 submitted = 0 verdicts")):
        assert cli_here("report", str(batch), "-o", "r.html").returncode == 0
        assert said in " ".join(Page((tmp_path / "r.html").read_text()).text.split())


def test_a_hostile_batch_makes_a_harmless_page(ledger: Database, tmp_path: Path) -> None:
    """Captions, names, paths, codes and the batch's own name are strangers' texts: they are shown, never obeyed."""
    batch = hostile_batch(ledger, tmp_path / "pictures")
    found = ask_for_report(ledger, batch, flagged=60)
    report = Report(seen=progress(ledger, batch), answers=found.answers, written_at=0.0)
    wanted = {
        row["row"]: Wanted(reference=found.references[row["row"]], sha256=row["image_sha256"])
        for row in report.rows("flagged")
    }
    shown = thumbnails(wanted, image_root=found.image_root, settings=make_settings(tmp_path))
    html = page(report, shown)
    assert html == page(report, shown)
    assert len(html) < 400_000
    read = Page(html)
    assert not {"script", "iframe", "object", "embed", "form", "a", "base"} & {tag for tag, _ in read.elements}
    for tag, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset", "action")], tag
        for name in ("src", "href", "xlink:href", "data"):
            assert attributes.get(name, "data:").startswith("data:")
    assert len(read.all("li")) >= len(HOSTILE)
    assert SCRIPT in read.text
    assert "{{ 7 * 7 }}" in read.text
    assert "\\u202egnp.exe\\u2066 \\u200b\\x1b[2J\\x00\\x7f\\ud800" in read.text
    assert "… (1,000,000 characters)" in read.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ud800-\udfff]", html)


def test_the_policy_allows_the_page_s_own_style_and_nothing_else(ledger: Database) -> None:
    """A Content-Security-Policy whose hash is wrong would leave the page without its blur."""
    read = Page(page(asked(ledger, mixed_batch(ledger, pairs=5)), None))
    (policy,) = [meta["content"] for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(read.style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in read.style
    assert "@import" not in read.style


def test_pictures_are_small_copies_and_what_is_wrong_is_said(cli_here: Cli, ledger: Database, tmp_path: Path) -> None:
    """A damaged or missing picture costs its card the picture alone; a file that was replaced is not passed off."""
    folder = tmp_path / "pictures"
    batch = add_batch(ledger, image_root=str(folder))
    add_chunk(ledger, batch, 0, "done", pairs=5, no=5, flagged=5)
    fine = draw(folder / "fine.png", size=(1200, 300))
    sha256 = hashlib.sha256(fine.read_bytes()).hexdigest()
    (folder / "damaged.png").write_bytes(fine.read_bytes()[:40])
    draw(folder / "\udcff.png")
    judged = {
        "fine.png": sha256,
        "replaced.png": "0" * 64,
        "damaged.png": None,
        "missing.png": None,
        "\udcff.png": None,
    }
    draw(folder / "replaced.png")
    for row, (image, digest) in enumerate(judged.items()):
        add_pair(ledger, batch, a_pair(row, image=image), **no(0.9 - row / 100), image_sha256=digest)
    assert cli_here("report", str(batch), "-o", "r.html").returncode == 0
    read = Page((tmp_path / "r.html").read_text())
    pictures = [image for image in read.all("img") if image["src"].startswith("data:image/jpeg;base64,")]
    assert [image["alt"] for image in pictures] == ["Picture of id-0", "Picture of id-1", "Picture of id-4"]
    assert (pictures[0]["width"], pictures[0]["height"]) == (str(SIDE), "80")
    assert base64.b64decode(pictures[0]["src"].partition(",")[2]).startswith(b"\xff\xd8\xff")
    assert read.text.count("the file has changed since it was judged") == 1
    assert "no picture now: image_truncated" in read.text
    assert "no picture now: file_missing" in read.text
    moved = folder.rename(tmp_path / "elsewhere")
    assert (
        cli_here("report", str(batch), "-o", "r.html", "--image-root", str(moved), "--thumbnails", "1").returncode == 0
    )
    read = Page((tmp_path / "r.html").read_text())
    assert len(read.all("img")) == 1
    assert "The 1 surest mismatches of 5" in read.text
    assert cli_here("report", str(batch), "-o", "r.html", "--no-pictures").returncode == 0
    assert Page((tmp_path / "r.html").read_text()).all("img") == []


def test_a_picture_that_kills_its_decoder_costs_its_card_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report's own process decodes nothing: whoever hides a decoder's bug in a picture ends a throwaway one."""
    root = marked_root(tmp_path, monkeypatch)
    wanted = {n: Wanted(reference=f"{name}.png", sha256=None) for n, name in enumerate(["SEGV", "HANG", "good"])}
    made = thumbnails(wanted, image_root=str(root), settings=make_settings(tmp_path, decode_limit_s=3.0))
    assert [one.note.split(",")[0] for one in made.values()] == [
        *("no picture now: decoder_crashed", "no picture now: decoder_timeout", "")
    ]
    assert [one.uri is None for one in made.values()] == [True, True, False]


def test_pictures_take_no_longer_than_they_may(tmp_path: Path) -> None:
    """A thousand pictures that each decode for ten seconds would otherwise take three hours."""
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    moments = iter([0.0, 1.0, 11.0])
    wanted = {number: Wanted(reference=f"{name}.png", sha256=None) for number, name in enumerate("ab")}
    settings = Settings.model_validate({"home": tmp_path})
    made = thumbnails(wanted, image_root=str(tmp_path), settings=settings, limit_s=10, clock=lambda: next(moments))
    assert [one.note for one in made.values()] == ["", "not drawn: time was up"]


def test_a_report_that_fails_leaves_the_old_file(cli_here: Cli, ledger: Database, tmp_path: Path) -> None:
    """Half a page would be taken for a whole one; exit statuses are those of export."""
    batch = mixed_batch(ledger, pairs=3)
    (tmp_path / "r.html").write_text("yesterday's")
    assert cli_here("report", "404", "-o", "r.html").returncode == 2
    assert cli_here("report", str(batch), "-o", "r.html", AUDIT_HOME=str(tmp_path / "typo")).returncode == 2
    assert cli_here("report", str(batch), "-o", str(tmp_path)).returncode == 2
    assert cli_here("report", str(batch), "--thumbnails", "-1").returncode == 2
    assert cli_here("report", str(batch), "-o", "r.html", "--json").returncode == 2
    for target in ("nowhere/r.html", "/dev/full"):
        failed = cli_here("report", str(batch), "-o", target)
        assert (failed.returncode, len(failed.stderr.splitlines())) == (1, 1)
        assert ".part" not in failed.stderr
    assert (tmp_path / "r.html").read_text() == "yesterday's"
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_a_stranger_s_matplotlibrc_changes_nothing(cli: Cli, ledger: Database, tmp_path: Path) -> None:
    """Matplotlib reads such a file from the folder that one stands in."""
    batch = mixed_batch(ledger, pairs=9)

    def drawn() -> list[dict[str, str]]:
        assert cli("report", str(batch), "-o", "r.html").returncode == 0
        return [one for kind in ("svg", "path", "text") for one in Page((tmp_path / "r.html").read_text()).all(kind)]

    before = drawn()
    (tmp_path / "matplotlibrc").write_text(
        "font.size: 40\naxes.facecolor: red\nsvg.fonttype: path\ntext.usetex: True\n"
    )
    assert drawn() == before
    assert any(one.get("class") == "fill-yes" for one in before)


def test_a_home_that_cannot_be_written_to_is_no_matter(cli: Cli, ledger: Database) -> None:
    """In a container with a read-only root Matplotlib has no place for its fonts' cache, and would say so at length."""
    batch = mixed_batch(ledger, pairs=3)
    done = cli("report", str(batch), "-o", "r.html", HOME="/proc/none", XDG_CACHE_HOME="/proc/none/cache")
    assert (done.returncode, done.stderr) == (0, "wrote r.html\n")


@pytest.mark.parametrize(("ms", "place"), [(0.0, 0.5), (0.1, 1.0), (1.0, 7.0), (10.0, 13.0), (1e9, 36.5)])
def test_a_time_has_its_place_among_the_columns(ms: float, place: float) -> None:
    """The lines of percentiles must stand where the columns say."""
    assert place_of(ms) == place
