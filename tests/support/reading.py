"""Reading a manifest in one go, for tests about what its rows become."""

from pathlib import Path

from db.register_pairs import Entry
from producer.rows import ColumnNames
from producer.sources import Format, open_manifest


def read(
    path: Path,
    content: bytes | str | None = None,
    *,
    columns: ColumnNames | None = None,
    file_format: Format | None = None,
    max_line_bytes: int = 10_000,
) -> list[Entry]:
    """Write the file if there is content for it, and return its entries."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with open_manifest(path, columns=columns, file_format=file_format, max_line_bytes=max_line_bytes) as manifest:
        entries = list(manifest.entries())
        assert len(entries) == manifest.rows
        return entries


def told(entry: Entry) -> tuple[str, str] | None:
    """Code and detail of an entry's failure; None for a good pair."""
    return None if entry.failure is None else (entry.failure.code, entry.failure.detail)
