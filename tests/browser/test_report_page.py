"""The report in a real browser: nothing runs, nothing is fetched, and pictures are blurred until they are clicked."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from db.engine import Database, open_database
from db.queries import progress
from db.report_queries import ask_for_report
from ops.report.facts import Report
from ops.report.page import page as report_page
from ops.report.pictures import Wanted, thumbnails
from tests.conftest import make_settings
from tests.support.report_pages import SCRIPT, hostile_batch

BLUR = "element => getComputedStyle(element).filter"


@pytest.fixture
def hostile_page(sqlite_url: str, tmp_path: Path) -> Path:
    """The report of a batch whose every text tries to be markup, as a file."""
    database: Database = open_database(sqlite_url)
    batch = hostile_batch(database, tmp_path / "pictures")
    found = ask_for_report(database, batch, flagged=60)
    report = Report(seen=progress(database, batch), answers=found.answers, written_at=0.0)
    database.close()
    wanted = {
        row["row"]: Wanted(reference=found.references[row["row"]], sha256=row["image_sha256"])
        for row in report.rows("flagged")
    }
    shown = thumbnails(wanted, image_root=found.image_root, settings=make_settings(tmp_path))
    path = tmp_path / "report.html"
    path.write_text(report_page(report, shown), encoding="utf-8")
    return path


def test_nothing_of_a_hostile_batch_runs_or_is_fetched(page: Page, hostile_page: Path) -> None:
    """Whoever opens the report of a stranger's captions must not be at their mercy."""
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(hostile_page.as_uri())
    page.wait_for_load_state("networkidle")
    for summary in page.locator("summary").all():
        summary.click()
    assert complaints == []
    assert [url for url in asked if not url.startswith("data:")] == [hostile_page.as_uri()]
    assert page.title().startswith("Batch 1: <script>document.title='owned'")
    assert SCRIPT in page.locator("h1").inner_text()
    assert page.evaluate("document.scripts.length") == 0


def test_the_policy_stops_what_the_escaping_would_miss(page: Page, hostile_page: Path) -> None:
    """A second line of defence is one only when it holds alone."""
    html = hostile_page.read_text(encoding="utf-8")
    broken = html.replace("<main>", f"<main>{SCRIPT}<p id=probe style='color: rgb(1, 2, 3)'>probe</p>", 1)
    hostile_page.write_text(broken, encoding="utf-8")
    asked: list[str] = []
    page.on("requestfinished", lambda request: asked.append(request.url))
    page.goto(hostile_page.as_uri())
    assert page.evaluate("document.scripts.length") == 1
    assert page.title().startswith("Batch 1: ")
    assert page.locator("#probe").evaluate("element => getComputedStyle(element).color") != "rgb(1, 2, 3)"
    assert [url for url in asked if not url.startswith("data:")] == [hostile_page.as_uri()]


def test_a_picture_is_blurred_until_it_is_clicked(browser: Browser, hostile_page: Path) -> None:
    """Flagged pictures may be anything; looking at one is a decision. It works without JavaScript, and by keyboard."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(hostile_page.as_uri())
    pictures = page.locator(".picture img")
    count = pictures.count()
    assert count >= 4
    assert all("blur" in pictures.nth(number).evaluate(BLUR) for number in range(count))
    page.locator(".reveal").nth(1).click()
    page.locator(".reveal").nth(2).press("Space")
    shown = [number for number in range(count) if pictures.nth(number).evaluate(BLUR) == "none"]
    assert shown == [1, 2]
    page.locator(".reveal").nth(1).click()
    assert "blur" in pictures.nth(1).evaluate(BLUR)
    page.get_by_label("Show all pictures").check()
    assert [pictures.nth(number).evaluate(BLUR) for number in range(count)] == ["none"] * count
    page.reload()
    assert "blur" in pictures.nth(0).evaluate(BLUR)
    context.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_no_text_is_wider_than_the_screen(browser: Browser, hostile_page: Path, width: int) -> None:
    """A caption of a million letters must not make the page a mile wide, on a telephone neither."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.goto(hostile_page.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.scrollHeight") < 40_000
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert dark == "rgb(18, 22, 28)"
    context.close()
