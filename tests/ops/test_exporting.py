"""What exports hold: every text as it was, and nothing that a spreadsheet would run."""

import csv
import io
import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import UsageError
from audit.pair import BatchId
from db.codec import escape
from db.engine import Database
from db.exports import OutcomeRow
from db.queries import Progress
from ops import parquet
from ops.arguments import ExportFormat
from ops.exporting import COLUMNS, armed, extra_names, write_rows
from tests.ops.conftest import COMMAND, Cli
from tests.support.ledger_rows import BROKEN, NO, YES, a_pair, add_batch, add_chunk, add_pair

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "report.md"
RUN = "=+-@＝＋－＠\t\r\n"
"""What a spreadsheet may take for a formula's beginning."""
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet="=+-@';\t\r\n \"\\,;＝＋－＠\u00a0\u3000\ufeffa1"),
    st.text(alphabet=st.sampled_from("\0\ud800\udcff=a")),
)
SEEN = Progress(
    batch=BatchId(7),
    name="=shoes",
    tenant="default",
    lane="bulk",
    model="demo",
    policy="{}",
    state="done",
    submitted=1,
    yes=0,
    no=1,
    maybe=0,
    failed=0,
    flagged=1,
    cancelled=0,
    retrying=0,
    remaining=0,
    chunks={},
    rate=None,
    eta_s=None,
    created_at=0.0,
    started_at=None,
    finished_at=None,
)


def begins_as_formula(cell: str) -> bool:
    return cell.strip(' \t\r\n"\u3000\xa0\ufeff').startswith(tuple(RUN[:8]))


def an_outcome(caption: str = "a dog", extra: dict[str, str] | None = None, premise: str | None = None) -> OutcomeRow:
    return OutcomeRow(
        id="x",
        image="x",
        caption=caption,
        premise=premise,
        label="No",
        p_yes=1e-7,
        p_no=0.9999999,
        p_maybe=0.0,
        flagged=True,
        flags=("animated", "caption_truncated"),
        failure_code=None,
        failure_detail=None,
        row=3,
        attempt=1,
        worker="x",
        device="x",
        model="x",
        model_revision="x",
        engine="x",
        precision="x",
        cached=False,
        decode_ms=None,
        model_ms=8.5,
        judged_at="2023-11-14T22:13:20.250Z",
        image_sha256="ab",
        extra=extra or {},
    )


def written(rows: list[OutcomeRow], kind: ExportFormat) -> bytes:
    file = io.BytesIO()
    keys = [key for row in rows for key in row.extra]
    write_rows(file, rows, extra_names(keys), kind, seen=SEEN)
    return file.getvalue()


def read_csv(data: bytes, *, delimiter: str = ",") -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline=""), delimiter=delimiter))


def disarmed(cell: str) -> str:
    """The way back, as docs/report.md has it."""
    found = re.search(r"```python\n(# the text of a cell.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)  # noqa: S102 - our own documentation
    return str(names["text_of"](cell))


@given(TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=3))
def test_no_cell_of_a_csv_begins_as_a_formula_and_every_text_can_be_had_back(
    caption: str, extra: dict[str, str]
) -> None:
    """Whoever opens an export must not run what a stranger wrote as a caption; column names are strangers' too."""
    names, cells = read_csv(written([an_outcome(caption, extra)], ExportFormat.CSV))
    for cell in (*names, *cells):
        assert not cell.startswith(tuple(RUN))
        assert not begins_as_formula(cell)
    found = dict(zip(map(disarmed, names), map(disarmed, cells), strict=True))
    assert found["caption"] == escape(caption)
    for key, name in extra_names(extra).items():
        assert found[name] == escape(extra[key])
    assert (found["p_yes"], found["decode_ms"], found["flags"]) == ("1e-07", "", "animated caption_truncated")


@given(TEXTS)
def test_a_csv_that_is_split_at_semicolons_holds_no_formula_either(caption: str) -> None:
    """Spreadsheets of half of Europe take `;` for the separator: a caption must not get a cell of its own there."""
    for text in (caption, f"a;{caption};=1", f'a\n{caption}\t"=1'):
        data = written([an_outcome(text)], ExportFormat.CSV)
        for separator in ";\t":
            for line in read_csv(data, delimiter=separator):
                assert not any(map(begins_as_formula, line))


@given(TEXTS)
def test_arming_is_reversible(text: str) -> None:
    """`'=1` may be the user's own text, or ours: it must be possible to tell."""
    assert disarmed(armed(text)) == text


@given(TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=3))
def test_json_lines_and_parquet_hold_the_text_as_it_is(caption: str, extra: dict[str, str]) -> None:
    """Programs need no apostrophes; what UTF-8 cannot hold is shown as the SQL views show it."""
    row = an_outcome(caption, extra)
    line = json.loads(written([row], ExportFormat.JSONL))
    (found,) = pa.parquet.read_table(io.BytesIO(written([row], ExportFormat.PARQUET))).to_pylist()
    for seen in (line, found):
        assert seen["caption"] == escape(caption)
        assert {key: seen[name] for key, name in extra_names(extra).items()} == {
            key: escape(value) for key, value in extra.items()
        }


@given(st.lists(st.sampled_from(["k\0", "k\\x00", "extra_k\\x00", "id", "extra_id", "batch"]), unique=True))
def test_columns_that_differ_in_what_is_escaped_alone_stay_two(keys: list[str]) -> None:
    """Two columns of one name would lose one of them, silently."""
    names = extra_names(keys)
    assert list(names) == keys
    assert len({*names.values(), *COLUMNS}) == len(keys) + len(COLUMNS)
    assert names.get("k\\x00", "k\\x00") == "k\\x00"


def test_nothing_and_the_empty_text_differ_in_every_format() -> None:
    """PostgreSQL's COPY reads an unquoted nothing as NULL, and `""` as the empty text."""
    rows = [an_outcome("", {"shop": ""}), an_outcome("a", premise="")]
    lines = written(rows, ExportFormat.CSV).decode().splitlines()
    assert lines[1].startswith('x,x,"",,No,')
    assert lines[1].endswith(',\'=shoes,""')
    assert lines[2].startswith('x,x,a,"",No,')
    assert lines[2].endswith(",'=shoes,")
    for found in (
        [json.loads(line) for line in written(rows, ExportFormat.JSONL).splitlines()],
        pa.parquet.read_table(io.BytesIO(written(rows, ExportFormat.PARQUET))).to_pylist(),
    ):
        assert [(row["caption"], row["premise"], row.get("shop")) for row in found] == [("", None, ""), ("a", "", None)]


def test_parquet_columns_have_types(tmp_path: Path) -> None:
    """A program adds probabilities and compares times without parsing text; the file says where it comes from."""
    data = written([an_outcome(extra={"price": "007"})], ExportFormat.PARQUET)
    file = pa.parquet.ParquetFile(io.BytesIO(data))
    (row,) = file.read().to_pylist()
    assert (row["row"], row["p_no"], row["flagged"], row["price"], row["batch"]) == (3, 0.9999999, True, "007", 7)
    assert row["flags"] == ["animated", "caption_truncated"]
    assert row["judged_at"] == datetime(2023, 11, 14, 22, 13, 20, 250_000, UTC)
    assert str(file.schema_arrow.field("judged_at").type) == "timestamp[ms, tz=UTC]"
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    described = {name.decode(): value.decode() for name, value in file.schema_arrow.metadata.items()}
    assert (described["caption_audit.batch"], described["caption_audit.batch_name"]) == ("7", "=shoes")
    assert described["caption_audit.model"] == "demo"


def test_parquet_is_written_group_by_group() -> None:
    """Memory is bounded by the group: by rows, and by characters when captions are long."""
    given = 0

    def rows(count: int, caption: str) -> Iterator[OutcomeRow]:
        nonlocal given
        for given in range(1, count + 1):  # noqa: B007 - counted for the reader below
            yield an_outcome(caption)

    class Watched(io.BytesIO):
        grown_at: list[int] = []  # noqa: RUF012 - one object of this class lives

        def write(self, data: Any) -> int:
            self.grown_at.append(given)
            return super().write(data)

    file = Watched()
    count = 2 * parquet.GROUP_ROWS + 1
    assert write_rows(file, rows(count, "short"), {}, ExportFormat.PARQUET, seen=SEEN) == count
    assert pa.parquet.ParquetFile(file).metadata.num_row_groups == 3
    assert parquet.GROUP_ROWS in file.grown_at
    long = io.BytesIO()
    write_rows(long, rows(5, "x" * (parquet.GROUP_CHARS // 2)), {}, ExportFormat.PARQUET, seen=SEEN)
    assert pa.parquet.ParquetFile(long).metadata.num_row_groups == 3


@pytest.fixture
def batch(ledger: Database) -> BatchId:
    """One verdict of each kind and a failure, with columns of the user's own."""
    made = add_batch(ledger, name="shoes", created_at=1000.0)
    add_chunk(ledger, made, 0, "done", pairs=3, yes=1, no=1, failed=1, flagged=1, claimed_at=1.0, done_at=2.0)
    add_pair(ledger, made, a_pair(0, extra={"shop": "=7", "batch": "mine"}), **YES, image_sha256="ab" * 32)
    add_pair(ledger, made, a_pair(1, caption="\udcff"), **NO, flags="animated")
    add_pair(ledger, made, a_pair(2), **BROKEN)
    return made


def test_the_command_guesses_parquet_from_the_name(cli: Cli, batch: BatchId, tmp_path: Path) -> None:
    """`-o verdicts.parquet` needs no second word."""
    done = cli("export", str(batch), "-o", "out.PARQUET")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "wrote 3 outcomes to out.PARQUET\n")
    table = pa.parquet.read_table(tmp_path / "out.PARQUET")
    assert table.column_names == [*COLUMNS, "shop", "extra_batch"]
    assert table.column("label").to_pylist() == ["Yes", "No", None]
    assert table.column("failure_code").to_pylist() == [None, None, "image_empty"]
    assert table.column("caption").to_pylist() == ["caption 0", "\\udcff", "caption 2"]
    assert table.column("image_sha256").to_pylist() == ["ab" * 32, None, None]
    assert (table.column("batch")[0].as_py(), table.column("batch_name")[0].as_py()) == (batch, "shoes")
    assert table.column("extra_batch").to_pylist() == ["mine", None, None]


def test_a_name_that_says_no_format_is_refused(cli: Cli, batch: BatchId, tmp_path: Path) -> None:
    """Comma-separated text in a file called .xlsx opens nowhere; with the format said it is as asked for."""
    done = cli("export", str(batch), "-o", "out.xlsx")
    assert (done.returncode, "--format csv" in done.stderr) == (2, True)
    assert not (tmp_path / "out.xlsx").exists()
    assert cli("export", str(batch), "-o", "out.txt", "--format", "csv").returncode == 0
    assert cli("export", str(batch), "-o", "/dev/null").returncode == 0


def test_parquet_goes_through_a_pipe_but_not_to_a_terminal(
    cli: Cli, batch: BatchId, environment: dict[str, str], tmp_path: Path
) -> None:
    """Bytes that are no text would wreck a terminal; a pipe cannot seek, and need not."""
    command = [*COMMAND, "export", str(batch), "--format", "parquet"]
    piped = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
    assert pa.parquet.read_table(io.BytesIO(piped.stdout)).num_rows == 3
    master, slave = pty.openpty()
    shown = subprocess.run(command, env=environment, stdout=slave, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(slave)
    os.close(master)
    assert shown.returncode == 2
    assert shown.stderr.startswith(b"caption-audit: this is nothing for a terminal")


def test_a_parquet_export_that_fails_leaves_no_file(cli: Cli, batch: BatchId, tmp_path: Path) -> None:
    """A file without its footer cannot be read at all."""
    full = cli("export", str(batch), "--format", "parquet", "-o", "/dev/full")
    assert (full.returncode, full.stderr.splitlines()) == (1, ["caption-audit: No space left on device"])
    assert cli("export", str(batch), "-o", "nowhere/out.parquet").returncode == 1
    assert cli("export", "404", "-o", "out.parquet").returncode == 2
    assert [path.name for path in tmp_path.glob("*parquet*")] == []


def test_a_batch_with_a_column_a_row_is_refused_as_parquet_with_the_cure() -> None:
    """Every row group would describe ten thousand columns of nothing."""
    keys = {f"k{number}": "1" for number in range(parquet.MAX_EXTRA_COLUMNS + 1)}
    with pytest.raises(UsageError, match="--format jsonl"):
        written([an_outcome(extra=keys)], ExportFormat.PARQUET)


def test_a_batch_without_outcomes_is_an_empty_table(cli: Cli, ledger: Database, tmp_path: Path) -> None:
    """A program that runs every hour must not fail on the first one."""
    empty = add_batch(ledger)
    add_chunk(ledger, empty, 0, "pending", pairs=3)
    done = cli("export", str(empty), "-o", "out.parquet")
    assert done.returncode == 0
    assert "3 pairs have no outcome yet" in done.stderr
    assert pa.parquet.read_table(tmp_path / "out.parquet").column_names == [*COLUMNS]
