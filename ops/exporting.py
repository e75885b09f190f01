"""Outcomes as CSV, JSON Lines and Parquet, for other programs."""

import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from audit.errors import Permanent, UsageError
from db.codec import escape
from ops.arguments import ExportFormat

if TYPE_CHECKING:
    from db.queries import OutcomeRow, Progress

COLUMNS = (
    *("id", "image", "caption", "premise", "label", "p_yes", "p_no", "p_maybe", "flagged", "flags", "failure_code"),
    *("failure_detail", "row", "attempt", "worker", "device", "model", "model_revision", "engine", "precision"),
    *("cached", "decode_ms", "model_ms", "judged_at", "image_sha256", "batch", "batch_name"),
)
BLANK = r"['\"\x00-\x08\x0b\x0c\x0e-\x20\x85\xa0\u1680\u2000-\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff]"
FORMULA = rf"{BLANK}*[=+\-@＝＋－＠﹦﹢﹣﹫]"
"""A sign that makes a formula of a cell (OWASP, CSV Injection), in full width or small form too; also behind blanks,
which some programs trim, behind quotes, which another separator unties, and behind apostrophes, so that ours can be
told from the user's."""
ARMED_AT = re.compile(rf"^(?='*[\t\r\n])|(?:^|(?<=[;\t\r\n]))(?={FORMULA})")
"""Where an apostrophe is put: before a text that begins so, and wherever such a text would begin for a spreadsheet that
splits at `;` (as half of Europe's do) or at tabs, and so takes no notice of our quotes. Scans a text once."""
QUOTED = re.compile(r'[",;\t\r\n]|^\s|\s$|^$')
"""Texts in quotes; among them the empty one, which is not NULL."""


def extra_names(keys: Iterable[str]) -> dict[str, str]:
    """The column of each extra key: its own name, or `extra_<name>` where a fixed column or another one has that."""
    wanted = list(dict.fromkeys(keys))
    plain_first = sorted(wanted, key=lambda key: _text(key) != key)  # a name that needs no escape keeps it
    names: dict[str, str] = {}
    taken = set(COLUMNS)
    for key in [*(key for key in plain_first if key not in COLUMNS), *(key for key in wanted if key in COLUMNS)]:
        name = _text(key)
        while name in taken:
            name = f"extra_{name}"
        names[key] = name
        taken.add(name)
    return {key: names[key] for key in wanted}


def record(row: "OutcomeRow", extra: Mapping[str, str], *, batch: int, batch_name: str) -> dict[str, Any]:
    """The fixed columns in their order, then the pair's extra columns under the names of `extra`.

    Texts that no file in UTF-8 can hold are shown with backslash escapes, as in the SQL views.
    """
    of_batch = {"batch": batch, "batch_name": batch_name}
    fixed = {name: of_batch[name] if name in of_batch else getattr(row, name) for name in COLUMNS}
    fixed["flags"] = " ".join(row.flags)
    spread = {extra[key]: value for key, value in row.extra.items()}
    return {name: _text(value) for name, value in (fixed | spread).items()}


def write_rows(
    file: BinaryIO,
    rows: Iterable["OutcomeRow"],
    extra: Mapping[str, str],
    kind: ExportFormat,
    *,
    seen: "Progress",
) -> int:
    """Write every row; returns how many. `seen` names the batch. Raises UsageError for columns that Parquet refuses."""
    from ops.parquet import described

    count = 0
    with record_writer(file, kind, [*extra.values()], described(seen)) as write:
        for row in rows:
            write(record(row, extra, batch=seen.batch, batch_name=seen.name))
            count += 1
    return count


@contextmanager
def written_whole(path: str, *, binary: bool = False) -> Iterator[BinaryIO]:
    """A file that appears under its name only when it is complete; `-` is stdout, devices and pipes are written to.

    With `binary` a terminal is refused: what is written would be no text to it. Raises UsageError, OSError.
    """
    if path == "-":
        if binary and sys.stdout.isatty():
            raise UsageError("bad_output", "this is nothing for a terminal: name a file with -o FILE, or redirect it")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = os.path.realpath(path)
    if not path or os.path.isdir(target):
        raise UsageError("bad_output", f"{path or repr(path)} is no file: name one, in a folder that exists")
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise Permanent("bad_output", f"there is no folder {folder}: make it, or name another file")
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


def armed(text: str) -> str:
    """The text for a cell of a CSV: what a spreadsheet might take for a formula gets a leading apostrophe.

    Reversible: an apostrophe at the beginning, or behind `;`, tab or line break, that is followed by what is armed is
    ours; no other text was changed.
    """
    return ARMED_AT.sub("'", text)


@contextmanager
def record_writer(
    file: BinaryIO, kind: ExportFormat, extra: Sequence[str], described: Mapping[str, str]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that takes one record after the other: COLUMNS and the extra ones. `described` is for Parquet."""
    if kind is ExportFormat.PARQUET:
        from ops.parquet import parquet_writer

        with parquet_writer(file, COLUMNS, extra, described=described) as write:
            yield write
        return
    yield _jsonl_writer(file) if kind is ExportFormat.JSONL else _csv_writer(file, [*COLUMNS, *extra])


def _csv_writer(file: BinaryIO, names: Sequence[str]) -> Callable[[Mapping[str, Any]], None]:
    def write(cells: Iterable[Any]) -> None:
        file.write((",".join(map(_cell, cells)) + "\n").encode())

    write(names)
    return lambda values: write(values.get(name) for name in names)


def _jsonl_writer(file: BinaryIO) -> Callable[[Mapping[str, Any]], None]:
    return lambda values: (file.write(json.dumps(values, ensure_ascii=False).encode() + b"\n"), None)[1]


def _cell(value: Any) -> str:
    """One cell as RFC 4180 and PostgreSQL's COPY read it: NULL is nothing at all, the empty text is `""`."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    text = armed(value)
    return '"' + text.replace('"', '""') + '"' if QUOTED.search(text) else text


def _text(value: Any) -> Any:
    return escape(value) if isinstance(value, str) else value
