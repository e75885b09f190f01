"""Small manifests with real small pictures."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

COLOURS = ("red", "green", "blue", "yellow")


def draw(path: Path, *, colour: str = "red", size: tuple[int, int] = (8, 8)) -> Path:
    """A real picture of one colour; the file's ending decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def write_csv(path: Path, rows: Iterable[Sequence[str]], *, header: Sequence[str] = ("id", "image", "caption")) -> Path:
    """A CSV manifest, quoted as the csv module does."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """A JSONL manifest, one object a line."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def small_manifest(folder: Path, *, pairs: int = 8, name: str = "pairs.csv") -> Path:
    """`pairs` rows in a CSV beside their pictures: p0.png is red, p1.png green and so on, and the captions say so."""
    rows = []
    for number in range(pairs):
        colour = COLOURS[number % len(COLOURS)]
        picture = folder / f"{colour}.png"
        if not picture.exists():
            draw(picture, colour=colour)
        rows.append((f"p{number}", picture.name, f"a {colour} square"))
    return write_csv(folder / name, rows)


def ordered_manifest(folder: Path, *, pairs: int = 8, name: str = "pairs.csv") -> Path:
    """`pairs` rows whose captions tell the stub engine what to say: Yes, No and Maybe in turn."""
    picture = draw(folder / "any.png")
    rows = ((f"p{number}", picture.name, f"stub:{_ordered(number).lower()}") for number in range(pairs))
    return write_csv(folder / name, rows)


def ordered_results(pairs: int) -> dict[str, str]:
    """What an undisturbed run says of `ordered_manifest`, by id."""
    return {f"p{number}": _ordered(number) for number in range(pairs)}


def _ordered(number: int) -> str:
    return ("Yes", "No", "Maybe")[number % 3]
