"""The browser that other tests look at pages with."""

from pathlib import Path

from playwright.sync_api import Page


def test_a_browser_shows_a_page(page: Page, tmp_path: Path) -> None:
    """When this one fails, the others here say nothing about our pages."""
    (tmp_path / "hello.html").write_text("<title>hello</title><p id=x></p><script>x.textContent = 6 * 7</script>")
    page.goto((tmp_path / "hello.html").as_uri())
    assert (page.title(), page.locator("#x").inner_text()) == ("hello", "42")
