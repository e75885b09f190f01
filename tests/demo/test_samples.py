"""The sample pairs that `caption-audit demo` audits."""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from demo.samples import COLUMNS, main, write_samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of samples."""
    return write_samples(tmp_path_factory.mktemp("samples")).parent


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of a folder's sheet."""
    with (folder / "samples.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_samples_are_real_pictures_with_known_labels(folder: Path) -> None:
    """The demo shows how good the audit is: that needs files as people have them and labels that are known."""
    good = [row for row in rows(folder) if row["known_label"]]
    assert len(good) == 320
    labels = Counter(row["known_label"] for row in good)
    assert set(labels) == {"Yes", "No", "Maybe"}
    assert labels["Yes"] > labels["No"] > labels["Maybe"] > 15
    formats: Counter[str | None] = Counter()
    for row in good:
        with Image.open(folder / row["image"]) as picture:
            picture.load()
            formats[picture.format] += 1
            assert row["caption"].strip()
            assert min(picture.size) >= 150
    assert set(formats) == {"JPEG", "PNG", "WEBP"}


def test_broken_samples_have_no_known_label(folder: Path) -> None:
    """What cannot be judged has no label to be right about."""
    broken = {row["id"]: row for row in rows(folder) if not row["known_label"]}
    assert len(broken) == 10
    assert not (folder / broken["broken-missing"]["image"]).exists()
    assert (folder / broken["broken-a-folder"]["image"]).is_dir()
    assert (folder / broken["broken-zero-bytes-jpg"]["image"]).stat().st_size == 0
    assert broken["broken-empty-caption"]["caption"] == ""
    assert (folder / broken["broken-too-large-png"]["image"]).stat().st_size < 1_000


def test_ids_are_unique_and_columns_stable(folder: Path) -> None:
    """Scripts join on the id."""
    sheet = rows(folder)
    assert tuple(sheet[0]) == COLUMNS
    assert len({row["id"] for row in sheet}) == len(sheet) == 330


def test_samples_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    """A second run must find the same batch."""
    digests = []
    for name in ("first", "second"):
        main([str(tmp_path / name), "--count", "12"])
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        digests.append([(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
    assert digests[0] == digests[1]
