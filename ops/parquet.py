"""Outcomes as a Parquet file with typed columns, written in row groups of bounded size."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, BinaryIO

from audit.errors import UsageError

if TYPE_CHECKING:
    from db.queries import Progress

GROUP_ROWS = 20_000
GROUP_CHARS = 32_000_000
"""A row group is written at the sooner of these: what bounds the memory, whatever the length of the captions."""
MAX_EXTRA_COLUMNS = 1_000
"""Every row group describes every column; a manifest with a key of its own in each row would be all description."""
WHOLE = frozenset({"row", "attempt", "batch"})
REAL = frozenset({"p_yes", "p_no", "p_maybe", "decode_ms", "model_ms"})
TRUTH = frozenset({"flagged", "cached"})


@contextmanager
def parquet_writer(
    file: BinaryIO, columns: Sequence[str], extra: Sequence[str], *, described: Mapping[str, str]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that takes one record after the other; the file is complete when the block ends.

    `described` is what the file says about itself. `file` need not be seekable. Raises UsageError (`too_many_columns`).
    """
    import pyarrow as pa
    from pyarrow import parquet

    if len(extra) > MAX_EXTRA_COLUMNS:
        many = f"the batch has {len(extra):,} extra columns, Parquet files here hold {MAX_EXTRA_COLUMNS:,}"
        raise UsageError("too_many_columns", f"{many}: --format jsonl holds any number")
    schema = pa.schema(
        [*(pa.field(name, _type(pa, name)) for name in columns), *((name, pa.string()) for name in extra)]
    )
    groups = _Groups(pa, schema.with_metadata({f"caption_audit.{name}": value for name, value in described.items()}))
    with parquet.ParquetWriter(_Counted(file), groups.schema, compression="zstd") as writer:
        groups.write = writer.write_table
        yield groups.add
        groups.flush()


class _Groups:
    """Gathers records column by column until they are a row group."""

    def __init__(self, pa: Any, schema: Any) -> None:
        self.schema = schema
        self.write: Callable[[Any], None]
        self._pa = pa
        self._columns: dict[str, list[Any]] = {name: [] for name in schema.names}
        self._rows = self._chars = 0

    def add(self, values: Mapping[str, Any]) -> None:
        for name, column in self._columns.items():
            value = values.get(name)
            column.append(value)
            if isinstance(value, str):
                self._chars += len(value)
        self._rows += 1
        if self._rows >= GROUP_ROWS or self._chars >= GROUP_CHARS:
            self.flush()

    def flush(self) -> None:
        if not self._rows:
            return
        self._columns["flags"] = [text.split() for text in self._columns["flags"]]
        self._columns["judged_at"] = [datetime.fromisoformat(text) for text in self._columns["judged_at"]]
        self.write(self._pa.Table.from_pydict(self._columns, schema=self.schema))
        self._columns = {name: [] for name in self.schema.names}
        self._rows = self._chars = 0


class _Counted(io.RawIOBase):
    """A file that knows how far it is: Parquet's footer names places, and a pipe cannot tell."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file, self._place = file, 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def write(self, data: Any) -> int:
        self._file.write(data)
        count = memoryview(data).nbytes
        self._place += count
        return count

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()


def _type(pa: Any, name: str) -> Any:
    if name in WHOLE:
        return pa.int64()
    if name in REAL:
        return pa.float64()
    if name in TRUTH:
        return pa.bool_()
    if name == "flags":
        return pa.list_(pa.string())
    return pa.timestamp("ms", tz="UTC") if name == "judged_at" else pa.string()


def described(seen: "Progress") -> dict[str, str]:
    """What the file of a batch says about itself, under `caption_audit.*`."""
    from db.codec import escape

    return {
        "version": version("caption-audit"),
        "batch": str(seen.batch),
        "batch_name": escape(seen.name) or "",
        "batch_state": seen.state,
        "model": escape(seen.model) or "",
        "policy": seen.policy,
    }
