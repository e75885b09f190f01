"""Fixtures for pages that are looked at in a real browser."""

from tests.support.browser import browser, context, page

__all__ = ["browser", "context", "page"]
