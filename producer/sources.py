"""Manifests: files of image/caption pairs, checked as a whole first, then read row by row in bounded memory."""

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import BinaryIO

from audit.errors import ManifestInvalid, UsageError
from db.register_pairs import Entry
from producer.csv_format import count_csv, csv_entries
from producer.jsonl_format import count_jsonl, jsonl_entries
from producer.lines import Lines
from producer.rows import ColumnNames

STDIN = "-"
CHANGED = "the file changed while it was read; nothing of it was submitted"


class Format(StrEnum):
    """How a manifest is written."""

    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"


FORMATS = {".csv": Format.CSV, ".tsv": Format.TSV, ".jsonl": Format.JSONL, ".ndjson": Format.JSONL}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An open manifest that was read to its end once: it is what its format says, and has `rows` rows."""

    name: str
    format: Format
    columns: ColumnNames
    rows: int
    sha256: str
    file: BinaryIO
    max_line_bytes: int
    state: tuple[int, int]

    def entries(self, *, start_row: int = 0) -> Iterator[Entry]:
        """Rows in order from `start_row` on. Raises ManifestInvalid at the end if the bytes are not those of before."""
        lines = Lines(self.file, max_bytes=self.max_line_bytes)
        try:
            if self.format is Format.JSONL:
                yield from jsonl_entries(lines, self.columns, start_row=start_row)
            else:
                yield from csv_entries(lines, self.columns, delimiter=_delimiter(self.format), start_row=start_row)
        except OSError as error:
            raise ManifestInvalid("manifest_invalid", f"{self.name}: {error.strerror}") from None
        if lines.sha256 != self.sha256:
            raise _changed(self.name)

    def check_unchanged(self) -> None:
        """Raise ManifestInvalid if somebody wrote to the file since it was opened; costs one system call."""
        if _state(self.file) != self.state:
            raise _changed(self.name)


@contextmanager
def open_manifest(
    path: str | os.PathLike[str],
    *,
    file_format: Format | None = None,
    columns: ColumnNames | None = None,
    max_line_bytes: int = 1_000_000,
) -> Iterator[Manifest]:
    """Open and check a manifest; `-` is standard input. The file's ending tells the format unless `file_format` does.

    Raises ManifestInvalid with the line and column of what is wrong, UsageError when the format cannot be told.
    """
    path = os.fspath(path)
    columns = columns or ColumnNames()
    _check_columns(columns)
    file_format = file_format or _format_of(path)
    with _opened(path) as file:
        opened = Manifest(
            name="stdin" if path == STDIN else _shown(os.path.basename(path)),
            format=file_format,
            columns=columns,
            rows=0,
            sha256="",
            file=file,
            max_line_bytes=max_line_bytes,
            state=_state(file),
        )
        try:
            checked = _read_through(opened)
        except ManifestInvalid as error:
            raise ManifestInvalid(error.code, f"{_shown(path)}: {error.detail}") from None
        except OSError as error:
            raise ManifestInvalid("manifest_invalid", f"{_shown(path)}: {error.strerror}") from None
        yield checked


def _read_through(manifest: Manifest) -> Manifest:
    """The first pass: the manifest with the number of its rows and its hash."""
    lines = Lines(manifest.file, max_bytes=manifest.max_line_bytes)
    if manifest.format is Format.JSONL:
        rows = count_jsonl(lines, manifest.columns)
    else:
        rows = count_csv(lines, manifest.columns, delimiter=_delimiter(manifest.format))
    if rows == 0:
        raise ManifestInvalid("manifest_invalid", "line 1: there is a header and no row")
    if _state(manifest.file) != manifest.state:
        raise ManifestInvalid("manifest_invalid", CHANGED)
    return replace(manifest, rows=rows, sha256=lines.sha256)


def _delimiter(file_format: Format) -> str:
    return "\t" if file_format is Format.TSV else ","


def _check_columns(columns: ColumnNames) -> None:
    names = (columns.id, columns.image, columns.caption, columns.premise)
    if len(set(names)) < len(names) or "" in names:
        raise UsageError("bad_columns", "the id, image, caption and premise need four different column names")


def _format_of(path: str) -> Format:
    ending = os.path.splitext(path)[1].lower()
    if ending not in FORMATS:
        known = ", ".join(FORMATS)
        raise UsageError(
            "unknown_format",
            f"{_shown(path)}: the name does not end in {known}: say which format it is (--format)",
        )
    return FORMATS[ending]


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == STDIN:
        with tempfile.TemporaryFile(prefix="caption-audit-") as spool:
            try:
                shutil.copyfileobj(sys.stdin.buffer, spool)
                spool.flush()
            except OSError as error:
                raise ManifestInvalid("manifest_invalid", f"standard input: {error.strerror}") from None
            yield spool
        return
    shown = _shown(path)
    try:
        # A FIFO without a writer would block the opening for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise ManifestInvalid("manifest_invalid", f"{shown}: {reason}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ManifestInvalid("manifest_invalid", f"{shown}: not a regular file (pipe a stream to `-`)")
    with open(descriptor, "rb", buffering=0) as file:
        yield file


def _shown(path: str) -> str:
    return path if path.isprintable() else repr(path)


def _state(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _changed(name: str) -> ManifestInvalid:
    return ManifestInvalid("manifest_invalid", f"{name}: {CHANGED}")
