"""Sample pairs to audit: drawn pictures as real files, with captions whose labels are known, and some broken ones.

`python -m demo.samples OUT [--count N]` writes OUT/samples.csv and OUT/pictures/. The same bytes each time.
"""

import argparse
import csv
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

from demo.captions import sample_example
from demo.drawing import draw, to_file
from demo.scenes import scene_of
from demo.wordings import training_wordings

# Training draws its pictures from seeds below a million, the evaluation from ten million on.
FIRST_SEED = 20_000_000
COLUMNS = ("id", "image", "caption", "known_label", "axis")
# What an audit meets: most captions fit, a third are wrong, some say more than can be seen.
LABEL_WEIGHTS = {"yes": 6, "no": 3, "maybe": 1}
FORMAT_WEIGHTS = {"jpg": 6, "png": 2, "webp": 2}

Row = dict[str, str]


def write_samples(folder: Path, count: int = 320, seed: int = FIRST_SEED) -> Path:
    """Write `count` good pairs and the broken ones; return the path of samples.csv. Takes a few seconds."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = [_good_pair(pictures, number, seed + number) for number in range(count)]
    broken = list(_broken_pairs(pictures))
    # Spread over the file, so that a chunk meets good and bad neighbours.
    for number, row in enumerate(broken):
        rows.insert((number + 1) * len(rows) // (len(broken) + 1), row)
    sheet = folder / "samples.csv"
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return sheet


def _good_pair(pictures: Path, number: int, seed: int) -> Row:
    rng = Random(f"sample {seed}")
    scene = scene_of(seed)
    label = rng.choices(list(LABEL_WEIGHTS), list(LABEL_WEIGHTS.values()))[0]
    example = sample_example(scene, rng, training_wordings(), label=label)
    extension = rng.choices(list(FORMAT_WEIGHTS), list(FORMAT_WEIGHTS.values()))[0]
    name = f"{number:04d}.{extension}"
    (pictures / name).write_bytes(to_file(draw(scene), extension, quality=rng.randint(75, 92)))
    return _row(f"drawn-{number:04d}", name, example.caption, label.capitalize(), example.axis)


def _row(pair_id: str, name: str, caption: str, label: str = "", axis: str = "broken") -> Row:
    return {"id": pair_id, "image": f"pictures/{name}", "caption": caption, "known_label": label, "axis": axis}


def _broken_pairs(pictures: Path) -> Iterator[Row]:
    """Write what goes wrong in real folders, and give one row for each."""
    caption = "there is a red circle"
    picture = draw(scene_of(FIRST_SEED - 1))
    jpeg, png = to_file(picture, "jpg", quality=85), to_file(picture, "png", quality=0)
    files = {
        "half.jpg": jpeg[: len(jpeg) // 2],
        "zero-bytes.jpg": b"",
        "a-page.jpg": b"<!doctype html>\n<title>404</title>\n<p>The picture is not here.</p>\n",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="96" height="96"><circle r="40"/></svg>\n',
        "too-large.png": _png_header_only(width=30_000, height=30_000),
        "no-end.png": png[:-12],
        "noise.webp": Random("noise").randbytes(2_000),
        "fine.jpg": jpeg,
    }
    for name, content in files.items():
        (pictures / name).write_bytes(content)
        if name != "fine.jpg":
            yield _row(f"broken-{name.replace('.', '-')}", name, caption)
    (pictures / "a-folder.jpg").mkdir(exist_ok=True)
    yield _row("broken-a-folder", "a-folder.jpg", caption)
    yield _row("broken-missing", "nobody-drew-this.jpg", caption)
    yield _row("broken-empty-caption", "fine.jpg", "")


def _png_header_only(*, width: int, height: int) -> bytes:
    """Return a PNG that promises far more pixels than it holds: 900 million in about 100 bytes."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"\x00")) + part(b"IEND", b"")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write the samples."""
    parser = argparse.ArgumentParser(prog="python -m demo.samples", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=320)
    chosen = parser.parse_args(arguments)
    print(write_samples(chosen.out, chosen.count))


if __name__ == "__main__":
    main()
