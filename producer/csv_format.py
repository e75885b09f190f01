"""Manifests as CSV (or tab-separated): a header, and a record a row."""

import csv
from collections.abc import Iterator, Sequence

from audit.errors import ManifestInvalid
from audit.pair import Pair, Row
from db.register_pairs import Entry
from producer.lines import Lines
from producer.rows import ColumnNames, checked

NAMES_SHOWN = 12


def count_csv(lines: Lines, columns: ColumnNames, *, delimiter: str) -> int:
    """Read to the end and return the number of rows; raises ManifestInvalid naming the line and the column."""
    records = _records(lines, delimiter)
    _header(records, columns)
    return sum(1 for _ in records)


def csv_entries(lines: Lines, columns: ColumnNames, *, delimiter: str, start_row: int) -> Iterator[Entry]:
    """Rows from `start_row` on, as pairs or failures."""
    records = _records(lines, delimiter)
    header = _header(records, columns)
    index = {name: position for position, name in enumerate(header)}
    id_at, image_at, caption_at = index[columns.id], index[columns.image], index[columns.caption]
    premise_at = index.get(columns.premise)
    used = {id_at, image_at, caption_at, premise_at}
    others = [(name, position) for name, position in index.items() if position not in used]
    for row, (line, fields) in enumerate(records):
        if row < start_row:
            continue
        if isinstance(fields, list) and len(fields) == len(header):
            pair = Pair(
                row=Row(row),
                id=fields[id_at],
                image=fields[image_at],
                caption=fields[caption_at],
                premise=(fields[premise_at] or None) if premise_at is not None else None,
                extra={name: fields[position] for name, position in others} if others else None,
            )
            yield checked(line, pair)
        else:
            yield _ragged(line, row, header, fields, columns)


def _records(lines: Lines, delimiter: str) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """The line that each record starts on with its fields, or with what is wrong with it; blank lines are left out."""
    # The csv module's own limit of 131,072 characters a field is one for the whole process; Lines bounds the record.
    csv.field_size_limit(max(csv.field_size_limit(), lines.max_bytes + 1))
    reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        lines.record_starts(line)
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if lines.ended or reader.line_num > line:  # the quote swallowed rows: which ones they were is a guess
                raise _invalid(line, "a quote is not closed") from None
            yield line, error
            continue
        if fields:
            yield line, fields


def _header(records: Iterator[tuple[int, list[str] | csv.Error]], columns: ColumnNames) -> list[str]:
    line, header = next(records, (1, None))
    if header is None:
        raise ManifestInvalid("manifest_invalid", "the file is empty")
    if isinstance(header, csv.Error):
        raise _invalid(line, f"the header cannot be read: {_readable(header)}")
    if any("\0" in name for name in header):
        raise _invalid(line, "this is no text file")
    repeated = next((name for position, name in enumerate(header) if name in header[:position]), None)
    if repeated is not None:
        raise _invalid(line, f"the column {_shown([repeated])} is there twice")
    missing = [name for name in columns.required if name not in header]
    if missing:
        # Spreadsheets of half of Europe write "CSV" with semicolons.
        other = len(header) == 1 and ";" in header[0]
        cure = ": its fields are separated by semicolons, save it with commas or tabs" if other else ""
        raise _invalid(line, f"there is no column {_shown(missing)}; the columns are {_shown(header)}{cure}")
    return header


def _ragged(line: int, row: int, header: list[str], fields: list[str] | csv.Error, columns: ColumnNames) -> Entry:
    if isinstance(fields, csv.Error):
        return checked(line, Pair(row=Row(row), id="", image="", caption=""), problem=_readable(fields))
    known = dict(zip(header, fields, strict=False))  # a guess, for people: which field is missing cannot be told
    id_, image, caption = (known.get(name, "") for name in (columns.id, columns.image, columns.caption))
    pair = Pair(row=Row(row), id=id_, image=image, caption=caption, premise=known.get(columns.premise) or None)
    return checked(line, pair, problem=f"{len(fields)} fields where the header has {len(header)}")


def _readable(error: csv.Error) -> str:
    text = f"{error}"
    return "a carriage return outside of quotes" if text.startswith("new-line character") else text


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(ascii(name[:40]) for name in names[:NAMES_SHOWN]) + more


def _invalid(line: int, problem: str) -> ManifestInvalid:
    return ManifestInvalid("manifest_invalid", f"line {line}: {problem}")
