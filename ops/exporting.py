"""Outcomes as CSV and JSON Lines, for other programs."""

import csv
import io
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from audit.errors import UsageError
from db.codec import escape
from ops.arguments import ExportFormat

if TYPE_CHECKING:
    from db.queries import OutcomeRow

COLUMNS = (
    *("id", "image", "caption", "premise", "label", "p_yes", "p_no", "p_maybe", "flagged", "flags", "failure_code"),
    *("failure_detail", "row", "attempt", "worker", "device", "model", "model_revision", "engine", "precision"),
    *("cached", "decode_ms", "model_ms", "judged_at"),
)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A cell that starts so is a formula to spreadsheets (OWASP, CSV Injection)."""


def extra_names(keys: Iterable[str]) -> dict[str, str]:
    """The column of each extra key: its own name, or `extra_<name>` where a fixed column or another one has that."""
    wanted = list(dict.fromkeys(keys))
    names = {key: key for key in wanted if key not in COLUMNS}
    for key in wanted:
        name = key
        while name in COLUMNS or (key not in names and name in names.values()):
            name = f"extra_{name}"
        names.setdefault(key, name)
    return {key: names[key] for key in wanted}


def record(row: "OutcomeRow", extra: Mapping[str, str]) -> dict[str, Any]:
    """The fixed columns in their order, then the pair's extra columns under the names of `extra`.

    Texts that no file in UTF-8 can hold are shown with backslash escapes, as in the SQL views.
    """
    fixed = {name: getattr(row, name) for name in COLUMNS} | {"flags": " ".join(row.flags)}
    spread = {extra[key]: value for key, value in row.extra.items()}
    return {_text(name): _text(value) for name, value in (fixed | spread).items()}


def write_rows(file: BinaryIO, rows: Iterable["OutcomeRow"], extra: Mapping[str, str], kind: ExportFormat) -> int:
    """Write every row; returns how many."""
    write = _jsonl_writer(file) if kind is ExportFormat.JSONL else _csv_writer(file, [*COLUMNS, *extra.values()])
    count = 0
    for row in rows:
        write(record(row, extra))
        count += 1
    return count


@contextmanager
def written_whole(path: str) -> Iterator[BinaryIO]:
    """A file that appears under its name only when it is complete; `-` is stdout, devices and pipes are written to."""
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = os.path.realpath(path)
    if os.path.isdir(target):
        raise UsageError("bad_output", f"{path} is a folder: name a file in it")
    if os.path.exists(target) and not stat.S_ISREG(os.stat(target).st_mode):
        with open(target, "wb") as file:
            yield file
        return
    part = f"{target}.{os.getpid()}.part"
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise


def _csv_writer(file: BinaryIO, names: Sequence[str]) -> Callable[[Mapping[str, Any]], None]:
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")

    def write(cells: Iterable[Any]) -> None:
        writer.writerow([_cell(cell) for cell in cells])
        file.write(line.getvalue().encode())
        line.seek(0)
        line.truncate()

    columns = [_text(name) for name in names]
    write(columns)
    return lambda values: write(values.get(name) for name in columns)


def _jsonl_writer(file: BinaryIO) -> Callable[[Mapping[str, Any]], None]:
    return lambda values: (file.write(json.dumps(values, ensure_ascii=False).encode() + b"\n"), None)[1]


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return f"'{value}"
    return value


def _text(value: Any) -> Any:
    return escape(value) if isinstance(value, str) else value
