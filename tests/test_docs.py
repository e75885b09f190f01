"""Documents that agree with each other: no dead links, no page that nobody finds, two READMEs that say the same."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from itertools import zip_longest
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from audit.settings import Settings
from tests.support.command_lines import ROOT, documents, tokens

OF_COMPOSE = {"AUDIT_IMAGE_TAG"}
READMES = (ROOT / "README.md", ROOT / "README.zh.md")


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def links(document: Path) -> Iterator[str]:
    """Targets of its links and pictures."""
    for token in tokens(document):
        target = token.attrGet("href") or token.attrGet("src") if token.type in ("link_open", "image") else None
        if target:
            yield str(target)


def headings(document: Path) -> list[tuple[str, str]]:
    """Tag and text of each heading."""
    found = list(tokens(document))
    return [
        (token.tag, found[number + 1].content)
        for number, token in enumerate(found)
        if token.type == "heading_open" and number + 1 < len(found)
    ]


@cache
def anchors(document: Path) -> frozenset[str]:
    """The anchors that GitHub gives its headings: lower case, no punctuation, hyphens for spaces, -1 for a second."""
    seen: dict[str, int] = {}
    made = []
    for _, text in headings(document):
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        made.append(f"{anchor}-{seen[anchor]}" if anchor in seen else anchor)
        seen[anchor] = seen.get(anchor, 0) + 1
    return frozenset(made)


def dead(document: Path, *, root: Path = ROOT) -> list[str]:
    """Its links into the repository that lead nowhere, or out of it."""
    found = []
    for link in links(document):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = document.parent / unquote(parts.path) if parts.path else document
        leads_out = not target.resolve().is_relative_to(root)
        if leads_out or not target.exists() or _lost(target, unquote(parts.fragment)):
            found.append(link)
    return found


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    """A dead link is a question without an answer; files, headings and pictures alike."""
    assert dead(document) == []


@pytest.mark.parametrize(
    ("link", "is_dead"),
    [
        ("other.md#the-first-one", False),
        ("other.md#the-first-one-1", False),
        ("other.md#the-frist-one", True),
        ("other.md", False),
        ("#here", False),
        ("#there", True),
        ("../outside.md", True),
        ("nowhere.png", True),
        ("https://example.org/nowhere", False),
    ],
)
@pytest.mark.parametrize("kind", ["[text]({})", "![picture]({})", "| [in a cell]({}) |\n|---|"])
def test_dead_links_are_noticed(tmp_path: Path, link: str, is_dead: bool, kind: str) -> None:
    """The test above stands on this one."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.md").write_text("")
    (root / "other.md").write_text("# The `first` one\n\n# The first one\n")
    page = root / "page.md"
    page.write_text(f"# Here\n\n{kind.format(link)}\n")
    assert dead(page, root=root) == ([link] if is_dead else [])


@pytest.mark.parametrize("document", sorted((ROOT / "docs").glob("*.md")), ids=name_of)
def test_every_page_is_in_the_index(document: Path) -> None:
    """A page that no other names is not read."""
    index = ROOT / "docs" / "README.md"
    assert document == index or document.name in {link.partition("#")[0] for link in links(index)}


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_settings_that_are_named_exist(document: Path) -> None:
    """A variable with a typing error is set, read by nobody, and blamed last."""
    settings = {f"AUDIT_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"\bAUDIT_[A-Z][A-Z_]*[A-Z]\b", document.read_text(encoding="utf-8")))
    assert named - settings - OF_COMPOSE == set()


def test_the_sql_of_the_readme_runs(sqlite_url: str) -> None:
    """It is the first thing that people copy; a column that was renamed is found here."""
    statements = [
        statement
        for token in tokens(READMES[0])
        if token.type == "fence" and token.info == "sql"
        for statement in re.sub(r"--.*", "", token.content).split(";")
        if statement.strip()
    ]
    assert len(statements) >= 4
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as ledger:
        assert [ledger.execute(statement).fetchall() for statement in statements] == [[]] * len(statements)


def test_both_readmes_have_the_same_headings() -> None:
    """Levels and order; the Chinese one adds explanations of terms, never sections."""
    english, chinese = ([tag for tag, _ in headings(readme)] for readme in READMES)
    assert chinese == english


def test_both_readmes_show_the_same_code() -> None:
    """What is typed does not depend on the language, and comments are for the reader."""
    english, chinese = (list(_code(readme)) for readme in READMES)
    for one, other in zip_longest(english, chinese):
        assert other == one


def test_both_readmes_have_the_same_tables() -> None:
    """First columns are names (commands, codes, settings); the other columns are in the reader's language."""
    english, chinese = (_first_cells(readme) for readme in READMES)
    for one, other in zip_longest(english, chinese):
        assert other == one


def test_both_readmes_lead_to_the_same_places() -> None:
    """A page that only one of them names is lost to half of the readers."""
    ours, theirs = ({link for link in links(readme) if not link.startswith("#")} for readme in READMES)
    assert theirs - {"README.md"} == ours - {"README.zh.md"}


def _lost(target: Path, anchor: str) -> bool:
    return bool(anchor) and target.suffix == ".md" and anchor not in anchors(target)


def _code(readme: Path) -> Iterator[str]:
    for token in tokens(readme):
        if token.type == "fence":
            lines = (re.sub(r"\s+(#|--) .*$|^(#|--) .*$", "", line) for line in token.content.splitlines())
            yield "\n".join(lines)


def _first_cells(readme: Path) -> list[str]:
    """First cells of all rows but the heads, made of their code alone: what stands between it is language."""
    cells = re.findall(r"^\| (`.*?`(?:[^|]*`.*?`)*)[^|]*(?<!\\)\|", readme.read_text(encoding="utf-8"), re.MULTILINE)
    return [" ".join(re.findall(r"`[^`]+`", cell)) for cell in cells]
