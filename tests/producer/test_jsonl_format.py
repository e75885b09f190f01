"""Rows of JSONL manifests."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.pair import Pair, Row
from tests.support.manifests import write_jsonl
from tests.support.reading import read, told

GOOD = '{"id": "ok", "image": "a.png", "caption": "a dog"}'


@pytest.mark.parametrize(
    ("line", "name", "problem"),
    [
        ('{"id": "1", "image": "a", "caption": null}', "1", "the caption is null or missing, not a text"),
        ('{"id": "1", "image": "a"}', "1", "the caption is null or missing, not a text"),
        ('{"id": "1", "image": "a", "caption": 5}', "1", "the caption is a number, not a text"),
        ('{"id": "1", "image": "a", "caption": NaN}', "1", "the caption is a number, not a text"),
        ('{"id": "1", "image": ["a"], "caption": "b"}', "1", "the image is a list, not a text"),
        ('{"id": "1", "image": "", "caption": "b"}', "1", "the image is empty"),
        ('{"id": "1", "image": "\\ud800", "caption": "b"}', "1", "the image is no text that could name a file"),
        ('{"id": 1.0, "image": "a", "caption": "b"}', "line-2", "the id is a number, not a text"),
        ('{"id": true, "image": "a", "caption": "b"}', "line-2", "the id is true or false, not a text"),
        ('{"image": "a", "caption": "b"}', "line-2", "the id is null or missing, not a text"),
        ('{"id": "1", "image": "a", "caption": "b", "premise": 0}', "1", "the premise is a number, not a text"),
        ('{"id": "1", "caption": "a", "caption": "b"}', "line-2", "the key 'caption' is there twice"),
        ('{"id": "1", "image": "a", "caption": "b"', "line-2", "this is no JSON (column 41: Expecting ',' delimiter)"),
        ("17", "line-2", "this is JSON, but no object"),
        ("[" * 200_000, "line-2", "the JSON is nested too deeply"),
        ('{"id": ' + "9" * 5000 + "}", "line-2", "it holds a number of more than 4,300 digits"),
    ],
)  # fmt: skip
def test_a_wrong_line_fails_alone_and_says_why(tmp_path: Path, line: str, name: str, problem: str) -> None:
    """A later line is a row like any other: its neighbours are judged as if it were not there."""
    entries = read(tmp_path / "pairs.jsonl", f"{GOOD}\n{line}\n\n{GOOD}\n", max_line_bytes=1_000_000)
    assert [(entry.line, entry.pair.id, told(entry)) for entry in entries] == [
        (1, "ok", None),
        (2, name, ("row_invalid", f"line 2: {problem}")),
        (4, "ok", None),
    ]


def test_a_lone_surrogate_in_a_caption_is_kept_and_refused(tmp_path: Path) -> None:
    """It is no text that a model could read, and what it was must still be visible."""
    (entry,) = read(tmp_path / "pairs.jsonl", '{"id": "1", "image": "a", "caption": "\\ud83d dog"}')
    assert told(entry) == ("caption_encoding", "line 1: the caption holds bytes that are not UTF-8")
    assert entry.pair.caption == "\ud83d dog"


def test_whole_numbers_are_fine_as_ids_and_other_values_are_kept_as_json(tmp_path: Path) -> None:
    """Ids are strings always; other columns come back as they were, in text."""
    line = {
        "id": 12345678901234567890,
        "image": "a",
        "caption": "b",
        "premise": None,
        "n": 1.5,
        "tags": ["é"],
        "t": "x",
    }
    (entry,) = read(write_jsonl(tmp_path / "pairs.jsonl", [line]))
    assert entry.pair == Pair(
        row=Row(0), id="12345678901234567890", image="a", caption="b", extra={"n": "1.5", "tags": '["é"]', "t": "x"}
    )


def test_a_value_nested_almost_too_deeply_is_kept_or_refused_never_a_crash(tmp_path: Path) -> None:
    """Reading and writing JSON have limits of their own, one just below the other."""
    for depth in range(800, 1100, 7):
        deep = f'{{"id": "1", "image": "a", "caption": "b", "deep": {"[" * depth}{"]" * depth}}}'
        entry = read(tmp_path / "pairs.jsonl", f"{GOOD}\n{deep}\n")[1]
        assert told(entry) in (None, ("row_invalid", "line 2: the JSON is nested too deeply"))


json_texts = st.text(max_size=30)
values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), json_texts, st.lists(st.integers())
)
objects = st.fixed_dictionaries(
    {
        "id": st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=200),
        "image": st.text(st.characters(codec="utf-8"), min_size=1),
        "caption": st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    },
    optional={"note": values, "premise": st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)},
)


@given(rows=st.lists(objects, min_size=1, max_size=20), escaped=st.booleans())
def test_what_json_writes_is_read_back(rows: list[dict[str, object]], escaped: bool) -> None:
    """U+2028 and friends are line ends to some readers, and no line ends in JSONL."""
    with TemporaryDirectory() as folder:
        content = "".join(json.dumps(row, ensure_ascii=escaped) + "\n" for row in rows)
        entries = read(Path(folder) / "pairs.jsonl", content.encode("utf-8", "surrogatepass"))
    assert [told(entry) for entry in entries] == [None] * len(rows)
    assert [(e.pair.id, e.pair.image, e.pair.caption, e.pair.premise) for e in entries] == [
        (row["id"], row["image"], row["caption"], row.get("premise")) for row in rows
    ]
    notes = [None if entry.pair.extra is None else entry.pair.extra["note"] for entry in entries]
    assert notes == [None if "note" not in row else _as_text(row["note"]) for row in rows]


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
