"""The table of spans, the code and the page say the same."""

import ast
from collections.abc import Iterator

from telemetry.span_names import SPANS, attribute, table
from tests.support.running import ROOT

PACKAGES = ("producer", "worker")


def made() -> Iterator[str]:
    """Names of the spans that the code makes: span("name") and stage("stage", "name")."""
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("span", "stage"):
                given = [one.value for one in node.args if isinstance(one, ast.Constant)]
                yield str(given[-1])


def test_every_span_of_the_code_is_in_the_table_and_the_other_way_round() -> None:
    """A span that nobody has described is one that nobody looks for."""
    assert set(made()) == set(SPANS)
    assert all(parent in SPANS for kind in SPANS.values() for parent in kind.parents)


def test_the_page_shows_the_table() -> None:
    """`python -m telemetry.span_names` prints what belongs there."""
    assert table() in (ROOT / "docs" / "traces.md").read_text()


def test_attributes_have_names_of_the_conventions_or_ours() -> None:
    """`pairs` on a span of one system is `pairs` of another: a prefix tells whose."""
    assert attribute("messages") == "messaging.batch.message_count"
    assert attribute("pairs") == "caption_audit.pairs"
    assert attribute("shop.broken") == "shop.broken"
