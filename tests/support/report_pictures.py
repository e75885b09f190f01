"""The pictures of docs/report.md, taken of a report in a real browser.

caption-audit demo && caption-audit report 1 -o report.html
python -m tests.support.report_pictures report.html docs/images
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.support.browser import ARGUMENTS, find_browser


def take(report: Path, folder: Path) -> None:
    """The top of the page in light and dark, and flagged pairs of which two were clicked."""
    size = {"width": 1180, "height": 1080}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=[*ARGUMENTS])
        for scheme in ("light", "dark"):
            page = browser.new_context(viewport=size, color_scheme=scheme).new_page()  # type: ignore[arg-type]
            page.goto(report.resolve().as_uri())
            page.screenshot(path=folder / f"report-{scheme}.png")
            if scheme == "light":
                page.locator("#flagged").evaluate("heading => heading.scrollIntoView()")
                for number in (0, 2):
                    page.locator(".reveal").nth(number).check()
                page.mouse.move(0, 0)
                page.screenshot(path=folder / "report-gallery.png", clip={"x": 0, "y": 0, "width": 1180, "height": 800})
        browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))
