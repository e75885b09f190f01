"""Manifests as JSONL: one JSON object a line."""

import json
from collections.abc import Iterator
from typing import Any

from audit.errors import ManifestInvalid
from audit.pair import Pair, Row
from db.register_pairs import Entry
from producer.lines import Lines
from producer.rows import ColumnNames, checked

TOO_DEEP = "the JSON is nested too deeply"


def count_jsonl(lines: Lines, columns: ColumnNames) -> int:
    """Read to the end and return the number of rows; raises ManifestInvalid naming the line and the column.

    The file is refused when its first line is no JSON object, or when a column is in no line at all.
    """
    rows = 0
    unseen = set(columns.required)
    for line, value in _records(lines):
        if rows == 0 and isinstance(value, str):
            raise ManifestInvalid("manifest_invalid", f"line {line}: {value}, where every line is to be a JSON object")
        rows += 1
        if unseen and isinstance(value, dict):
            unseen.difference_update(value)
    if rows == 0:
        raise ManifestInvalid("manifest_invalid", "the file is empty")
    if unseen:
        names = ", ".join(ascii(name[:40]) for name in columns.required if name in unseen)
        raise ManifestInvalid("manifest_invalid", f"lines 1 to {line}: there is no column {names} in any line")
    return rows


def jsonl_entries(lines: Lines, columns: ColumnNames, *, start_row: int) -> Iterator[Entry]:
    """Rows from `start_row` on, as pairs or failures."""
    for row, (line, value) in enumerate(_records(lines)):
        if row < start_row:
            continue
        try:
            yield _no_object(line, row, value) if isinstance(value, str) else _entry(line, row, value, columns)
        except RecursionError:  # it was just shallow enough to be read, and is too deep to be written
            yield _no_object(line, row, TOO_DEEP)


def _records(lines: Lines) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Each line's number with its object, or with what is wrong with it; blank lines are left out."""
    for number, line in enumerate(lines, start=1):
        lines.record_starts(number + 1)
        if not line.isspace():
            yield number, _parse(line)


def _parse(line: str) -> dict[str, Any] | str:
    try:
        value = json.loads(line.rstrip("\r\n"), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        return f"this is no JSON (column {error.colno}: {error.msg})"
    except _KeyTwice as error:
        return f"the key {error.key[:40]!a} is there twice"
    except ValueError:  # Python's own guard; reading such a number takes time that grows with its square
        return "it holds a number of more than 4,300 digits"
    except RecursionError:
        return TOO_DEEP
    return value if isinstance(value, dict) else "this is JSON, but no object"


class _KeyTwice(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, held in items:
        if key in value:
            raise _KeyTwice(key)
        value[key] = held
    return value


def _no_object(line: int, row: int, problem: str) -> Entry:
    return checked(line, Pair(row=Row(row), id="", image="", caption=""), problem=problem)


def _entry(line: int, row: int, value: dict[str, Any], columns: ColumnNames) -> Entry:
    used = {"id": columns.id, "image": columns.image, "caption": columns.caption, "premise": columns.premise}
    given = {field: value.get(name) for field, name in used.items()}
    if type(given["id"]) is int:
        given["id"] = str(given["id"])
    optional = given["premise"] is None
    wrong = [name for name, held in given.items() if not isinstance(held, str) and not (name == "premise" and optional)]
    problem = f"the {wrong[0]} is {_kind(given[wrong[0]])}, not a text" if wrong else None
    texts = {name: held if isinstance(held, str) else "" for name, held in given.items()}
    extra = {name: _text(held) for name, held in value.items() if name not in used.values()} or None
    pair = Pair(
        row=Row(row),
        id=texts["id"],
        image=texts["image"],
        caption=texts["caption"],
        premise=texts["premise"] or None,
        extra=extra,
    )
    return checked(line, pair, problem=problem)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _kind(value: object) -> str:
    if value is None:
        return "null or missing"
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "something else")
