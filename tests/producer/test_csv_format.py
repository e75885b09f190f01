"""Rows of CSV manifests: what each becomes, and on which line."""

import csv
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from audit.errors import ManifestInvalid
from audit.pair import Pair, Row
from producer.rows import ColumnNames
from producer.sources import Format
from tests.support.manifests import write_csv
from tests.support.reading import read, told

HEADER = "id,image,caption\n"


def pair(row: int, name: str, image: str = "a.png", caption: str = "a dog", **more: object) -> Pair:
    return Pair(row=Row(row), id=name, image=image, caption=caption, **more)  # type: ignore[arg-type]


def test_a_ragged_row_fails_alone_with_its_line(tmp_path: Path) -> None:
    """One comma too many must not cost a million neighbours their verdicts, and must be found in the file."""
    content = HEADER + '1,a.png,a dog\n2,a.png,"two\nlines"\n3,a.png\n4,a.png,a dog, a cat\n5,a.png,a dog\n'
    entries = read(tmp_path / "pairs.csv", content)
    assert [entry.pair.id for entry in entries] == ["1", "2", "3", "4", "5"]
    assert [told(entry) for entry in entries] == [
        None,
        None,
        ("row_invalid", "line 5: 2 fields where the header has 3"),
        ("row_invalid", "line 6: 4 fields where the header has 3"),
        None,
    ]
    assert entries[1].pair.caption == "two\nlines"
    assert [entry.line for entry in entries] == [2, 3, 5, 6, 7]


def test_a_row_with_a_misplaced_quote_fails_alone(tmp_path: Path) -> None:
    """`"He said "hi" to me"` is common; a lenient parser would alter the caption without a word."""
    entries = read(tmp_path / "pairs.csv", HEADER + '1,a.png,"He said "hi" to me"\n2,a.png,a dog\n3,a\rb,c\n')
    assert [(entry.pair.id, told(entry)) for entry in entries] == [
        ("line-2", ("row_invalid", "line 2: ',' expected after '\"'")),
        ("2", None),
        ("line-4", ("row_invalid", "line 4: a carriage return outside of quotes")),
    ]


def test_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    """Excel writes both."""
    plain = read(tmp_path / "a.csv", HEADER + '1,a.png,"x\ny"\n\n2,b.png,z\n')
    windows = read(tmp_path / "b.csv", ("\ufeff" + HEADER + "1,a.png,x\n\n2,b.png,z\n").replace("\n", "\r\n"))
    assert [entry.pair for entry in windows] == [pair(0, "1", "a.png", "x"), pair(1, "2", "b.png", "z")]
    assert [entry.line for entry in windows] == [2, 4]
    assert [entry.line for entry in plain] == [2, 5]


def test_ids_are_strings(tmp_path: Path) -> None:
    """`1`, `01` and `1.0` are three ids, and NaN is one too."""
    entries = read(
        tmp_path / "pairs.csv", HEADER + "".join(f"{name},a,b\n" for name in ("1", "01", "1.0", "NaN", " 1"))
    )
    assert [entry.pair.id for entry in entries] == ["1", "01", "1.0", "NaN", " 1"]
    assert not any(map(told, entries))


def test_texts_that_cannot_be_what_they_should_be_fail_with_their_code(tmp_path: Path) -> None:
    """Each wrong row says why; a strange file name is the worker's to look at, an odd caption is kept as it is."""
    content = (
        b"id,image,caption,premise\n"
        b",a.png,x,\n"
        + b"i" * 201 + b",a.png,x,\n"
        b"3\x00,a.png,x,\n"
        b"4\xff,a.png,x,\n"
        b"5,,x,\n"
        b"6,a\xff\x00.png,x,\n"
        b"7,a.png,\xe9t\xe9,\n"
        b"8,a.png,a\x00b,\n"
        b"9,a.png,x,\xff\n"
        b"10,a.png,,\n"
    )  # fmt: skip
    entries = read(tmp_path / "pairs.csv", content)
    assert [(entry.pair.id, told(entry)) for entry in entries] == [
        ("line-2", ("row_invalid", "line 2: the id is empty")),
        ("line-3", ("row_invalid", "line 3: the id has 201 characters; the limit is 200")),
        ("line-4", ("row_invalid", "line 4: the id holds a NUL or bytes that are not UTF-8")),
        ("line-5", ("row_invalid", "line 5: the id holds a NUL or bytes that are not UTF-8")),
        ("5", ("row_invalid", "line 6: the image is empty")),
        ("6", None),
        ("7", ("caption_encoding", "line 8: the caption holds bytes that are not UTF-8")),
        ("8", ("caption_encoding", "line 9: the caption holds a NUL")),
        ("9", ("caption_encoding", "line 10: the premise holds bytes that are not UTF-8")),
        ("10", None),
    ]
    assert entries[5].pair.image == "a\udcff\0.png"
    assert entries[6].pair.caption == "\udce9t\udce9"


def test_columns_by_name_in_any_order_and_the_others_are_kept(tmp_path: Path) -> None:
    """Nobody should have to rewrite a file of ten million rows to rename a column."""
    columns = ColumnNames(id="key", image="path", caption="text", premise="context")
    content = "source,text,context,path,key\nweb,a dog,,a.png,1\nbook,a cat,in a garden,b.png,2\n"
    assert [entry.pair for entry in read(tmp_path / "pairs.csv", content, columns=columns)] == [
        pair(0, "1", "a.png", "a dog", extra={"source": "web"}),
        pair(1, "2", "b.png", "a cat", premise="in a garden", extra={"source": "book"}),
    ]


def test_a_field_may_be_longer_than_the_csv_module_likes(tmp_path: Path) -> None:
    """The csv module stops at 131,072 characters a field; our own limit decides."""
    entries = read(tmp_path / "pairs.csv", HEADER + f"1,a,{'x' * 200_000}\n", max_line_bytes=1_000_000)
    assert len(entries[0].pair.caption) == 200_000


names = st.text(min_size=1, max_size=200).filter(lambda text: "\0" not in text and text.isprintable())
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
rows = st.lists(st.tuples(names, texts.filter(bool), texts, texts), min_size=1, max_size=30)


# With "\n" as its line end, the csv module forgets to quote a carriage return.
line_ends = st.sampled_from(["\r\n", "\n"])


@given(rows=rows, tabs=st.booleans(), line_end=line_ends, bom=st.booleans())
def test_what_the_csv_module_writes_is_read_back(
    rows: list[tuple[str, str, str, str]], tabs: bool, line_end: str, bom: bool
) -> None:
    """Captions hold quotes, commas and newlines: none may be lost, moved or altered, whatever wrote the file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pairs"
        with path.open("w", newline="", encoding="utf-8-sig" if bom else "utf-8") as file:
            writer = csv.writer(
                file,
                delimiter="\t" if tabs else ",",
                lineterminator=line_end,
                quoting=csv.QUOTE_MINIMAL if line_end == "\r\n" else csv.QUOTE_ALL,
            )
            writer.writerow(["id", "image", "caption", "note"])
            writer.writerows(rows)
        entries = read(path, file_format=Format.TSV if tabs else Format.CSV)
    expected = [pair(n, *row[:3], extra={"note": row[3]}) for n, row in enumerate(rows)]
    assert [entry.pair for entry in entries] == expected
    assert not any(map(told, entries))


@given(data=st.binary(max_size=300), where=st.integers(0, 5))
def test_rubbish_in_one_line_never_moves_or_alters_the_other_rows(data: bytes, where: int) -> None:
    """Whatever one row holds, its neighbours keep their line, id and caption, unless the file is refused whole."""
    rubbish = data.replace(b"\n", b"").replace(b'"', b"'")
    good = [(f"p{number}", "a.png", f"caption {number}") for number in range(6)]
    with TemporaryDirectory() as folder:
        path = write_csv(Path(folder) / "pairs.csv", good)
        lines = path.read_bytes().split(b"\r\n")
        lines.insert(1 + where, rubbish)
        try:
            entries = read(path, b"\r\n".join(lines))
        except ManifestInvalid:
            raise AssertionError("one row without quotes cannot make the file wrong") from None
    kept = [(entry.line, entry.pair.id) for entry in entries if entry.line != 2 + where]
    assert kept == [(2 + number + (number >= where), f"p{number}") for number in range(6)]
