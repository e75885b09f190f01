"""Manifests as files: what is refused as a whole, before a single row of it is registered."""

import gzip
import io
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from audit.errors import ManifestInvalid, UsageError
from producer.rows import ColumnNames
from producer.sources import Format, open_manifest
from tests.support.reading import read

HEADER = "id,image,caption\n"


def refusal(path: Path, content: bytes | str | None = None, **options: object) -> str:
    with pytest.raises(ManifestInvalid) as caught:
        read(path, content, **options)  # type: ignore[arg-type]
    assert caught.value.code == "manifest_invalid"
    assert caught.value.exit_status == 2
    assert "\n" not in caught.value.detail
    return caught.value.detail.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        (HEADER, "line 1: there is a header and no row"),
        ("id,image\n1,a.png\n", "line 1: there is no column 'caption'; the columns are 'id', 'image'"),
        (
            "id;image;caption\n1;a;b\n",
            (
                "line 1: there is no column 'id', 'image', 'caption'; the columns are 'id;image;caption': "
                "its fields are separated by semicolons, save it with commas or tabs"
            ),
        ),
        ("id,image,caption,id\n1,a,b,2\n", "line 1: the column 'id' is there twice"),
        (HEADER + '1,a.png,"a dog\n2,b.png,a cat\n', "line 2: a quote is not closed"),
        (HEADER + '1,a.png,"a dog\n2,b.png,"a cat"\n3,c.png,x\n', "line 2: a quote is not closed"),
        (HEADER + "1,a.png,a dog\n" * 3 + '4,a.png,"', "line 5: a quote is not closed"),
        ("id,image,caption\r1,a.png,a dog\r", "line 1: the header cannot be read: a carriage return outside of quotes"),
        ("\ufeffid,image,caption".encode("utf-16-le"), "line 1: this is UTF-16 text; save the file as UTF-8"),
        (
            b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
            "line 1: there is no column 'id', 'image', 'caption'; the columns are '\\udc89PNG'",
        ),
        (b"PK\x03\x04\x00\x00,x\n", "line 1: this is no text file"),
    ],
)
def test_a_wrong_csv_is_refused_with_line_and_column(tmp_path: Path, content: bytes | str, reason: str) -> None:
    """Half a batch of a misread file is worse than none, and whoever wrote it must find the place."""
    assert refusal(tmp_path / "pairs.csv", content) == reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the file is empty"),
        (" \r\n\n", "the file is empty"),
        (
            "id,image,caption\n1,a,b\n",
            "line 1: this is no JSON (column 1: Expecting value), where every line is to be a JSON object",
        ),
        ('[{"id": "1"}]\n', "line 1: this is JSON, but no object, where every line is to be a JSON object"),
        ('{"id": "1", "image": "a"}\n{"id": "2"}\n', "lines 1 to 2: there is no column 'caption' in any line"),
    ],
)
def test_a_wrong_jsonl_is_refused_with_line_and_column(tmp_path: Path, content: str, reason: str) -> None:
    """The same rule for the other format."""
    assert refusal(tmp_path / "pairs.jsonl", content) == reason


def test_a_column_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    """The premise is optional, but a misspelt name of it must not silently judge without premises."""
    columns = ColumnNames(id="key", premise="context")
    content = "key,image,caption,premise\n1,a.png,x,y\n"
    assert "no column 'context'" in refusal(tmp_path / "pairs.csv", content, columns=columns)


def test_two_roles_cannot_share_a_column(tmp_path: Path) -> None:
    """One column for id and image would be an option typed twice."""
    with pytest.raises(UsageError, match="four different column names"):
        read(tmp_path / "pairs.csv", HEADER + "1,a,b\n", columns=ColumnNames(id="image"))


def test_many_columns_are_named_in_one_short_line(tmp_path: Path) -> None:
    """A message with ten thousand names helps nobody."""
    detail = refusal(tmp_path / "pairs.csv", ",".join(f"column-{n}" for n in range(900)) + "\n1\n")
    assert detail.endswith("and 888 more")
    assert len(detail) < 400


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    """A FIFO without a writer would hang the command for ever."""
    os.mkfifo(tmp_path / "pipe.csv")
    assert refusal(tmp_path / "pipe.csv") == "not a regular file (pipe a stream to `-`)"
    (tmp_path / "folder.csv").mkdir()
    assert refusal(tmp_path / "folder.csv") == "not a regular file (pipe a stream to `-`)"
    assert refusal(tmp_path / "missing.csv") == "No such file or directory"
    with pytest.raises(ManifestInvalid, match="embedded null byte"), open_manifest("a\0.csv"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    """The reason is the system's own word."""
    path = tmp_path / "pairs.csv"
    path.write_text(HEADER)
    path.chmod(0)
    assert refusal(path) == "Permission denied"


def test_the_ending_tells_the_format_unless_the_caller_does(tmp_path: Path) -> None:
    """A wrong guess would be a wrong refusal, so an unknown ending is asked about."""
    assert len(read(tmp_path / "a.TSV", "id\timage\tcaption\n1\ta\tb, c\n")) == 1
    assert len(read(tmp_path / "a.ndjson", '{"id": 1, "image": "a", "caption": "b"}\n')) == 1
    assert len(read(tmp_path / "a.txt", HEADER + "1,a,b\n", file_format=Format.CSV)) == 1
    with pytest.raises(UsageError, match="say which format it is"):
        read(tmp_path / "a.csv.gz", gzip.compress(b"x"))


def test_standard_input_is_read_like_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """`zcat pairs.csv.gz | caption-audit submit -` needs two passes as well."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(HEADER.encode() + b"1,a,b\n2,c,d\n")))
    with open_manifest("-", file_format=Format.CSV) as manifest:
        assert [entry.pair.id for entry in manifest.entries()] == ["1", "2"]
        assert [entry.pair.id for entry in manifest.entries(start_row=1)] == ["2"]
        assert manifest.name == "stdin"


def test_a_record_over_the_limit_refuses_the_file(tmp_path: Path) -> None:
    """The limit holds for the record, not for the line: a quote that is never closed swallows short lines."""
    limit = "the record is longer than 10,000 bytes (AUDIT_MAX_LINE_BYTES); is a quote not closed?"
    swallowing = HEADER + "1,a,b\n" + '2,a,"never closed\n' + "3,a,b\n" * 3000
    assert refusal(tmp_path / "a.csv", swallowing) == f"line 3: {limit}"
    assert refusal(tmp_path / "b.csv", HEADER + "1,a," + "x" * 10_000) == f"line 2: {limit}"
    fits = HEADER + "1,a," + "x" * 9_995 + "\n" + "2,a," + "x" * 9_995 + "\n"
    assert [len(entry.pair.caption) for entry in read(tmp_path / "c.csv", fits)] == [9_995, 9_995]
    line = '{"id": 1, "image": "a", "caption": "%s"}\n'
    assert len(read(tmp_path / "d.jsonl", (line % ("x" * 9_000)) * 3)) == 3
    assert refusal(tmp_path / "e.jsonl", line % "x" + line % ("x" * 10_000)) == f"line 2: {limit}"


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_line_of_ten_gigabytes_is_refused_in_little_memory(tmp_path: Path, ending: str) -> None:
    """A damaged file must not take the machine down: a sparse file stands in for the ten gigabytes."""
    path = tmp_path / f"huge.{ending}"
    with path.open("wb") as file:
        file.write(HEADER.encode() + b"1,a,b\n" if ending == "csv" else b'{"id": 1, "image": "a", "caption": "b"}\n')
        file.truncate(10_000_000_000)
    code = (
        "import resource, sys\n"
        "from producer.sources import open_manifest\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    open_manifest(sys.argv[1]).__enter__()\n"
        "except Exception as error:\n    print(error.detail)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, timeout=60)
    detail, grown_kb = done.stdout.splitlines()
    assert "the record is longer than 1,000,000 bytes" in detail
    assert int(grown_kb) < 20_000
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0


def test_a_file_that_changes_between_the_passes_is_noticed(tmp_path: Path) -> None:
    """The first pass checked other bytes than the second would register."""
    path = tmp_path / "pairs.csv"
    path.write_text(HEADER + "1,a,b\n2,c,d\n")
    with open_manifest(path) as manifest:
        manifest.check_unchanged()
        path.write_text(HEADER + "1,a,b\n2,c,D\n")
        os.utime(path, ns=(0, manifest.state[1]))  # whoever wrote it kept size and time: the hash still tells
        manifest.check_unchanged()
        with pytest.raises(ManifestInvalid, match="the file changed while it was read"):
            list(manifest.entries())
        path.write_text(HEADER)
        with pytest.raises(ManifestInvalid, match="the file changed while it was read"):
            manifest.check_unchanged()


def test_a_file_that_is_replaced_between_the_passes_does_no_harm(tmp_path: Path) -> None:
    """An atomic replacement leaves the open file as it was."""
    path, other = tmp_path / "pairs.csv", tmp_path / "other.csv"
    path.write_text(HEADER + "1,a,b\n")
    other.write_text(HEADER + "2,c,d\n")
    with open_manifest(path) as manifest:
        other.replace(path)
        assert [entry.pair.id for entry in manifest.entries()] == ["1"]
