"""Pairs to compare on: pictures of many sizes and modes, captions of 1 to 120 words, with a premise or without."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

from demo.captions import LABELS, sample_example
from demo.drawing import draw
from demo.scenes import Scene, sample_scene
from demo.wordings import training_wordings

LONGEST_WORDS = 120
MODES = ("RGB", "RGB", "L", "P", "RGBA", "LA", "1", "CMYK")
"""Of the files that the pipeline opens; the engine is handed the same pictures as RGB, as the worker's decoder does."""
SIZES = ((1, 1), (2, 300), (300, 2), (31, 17), (96, 96), (640, 480), (333, 1000), (1600, 900))
WORDS = (
    "a the two dogs red circle left striped house is on it's don't isn't 3 42 1,000 café naïve 猫 🐕 & + (big) “quoted”"
)
MARKS = (".", "?!", "...", ":", '"', "--", "/", ";")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """`image` is a file's name in the folder of pairs."""

    image: str
    caption: str
    premise: str | None


def write_pairs(folder: Path, *, count: int, seed: int) -> list[Pair]:
    """Write `count` pairs with their pictures, and pairs.json; the same seed gives the same pairs.

    Three in four are the demo's: captions of its own world, where a trained model is sure of itself, so that a wrong
    pixel or token would show. The rest is meant to be awkward.
    """
    rng = Random(seed)  # noqa: S311 - drawn pairs are no secret
    pairs = [_usual(folder, index, rng) if index % 4 else _awkward(folder, index, count, rng) for index in range(count)]
    rng.shuffle(pairs)
    rows = [{"image": pair.image, "caption": pair.caption, "premise": pair.premise} for pair in pairs]
    (folder / "pairs.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return pairs


def _usual(folder: Path, index: int, rng: Random) -> Pair:
    scene = sample_scene(rng)
    caption = _caption(scene, rng.choice(LABELS), rng)
    premise = _caption(scene, "yes", rng) if index % 4 == 1 else None
    if rng.random() < 0.2:
        caption = caption.upper()
    return Pair(image=_save(draw(scene), folder, index), caption=caption, premise=premise)


def _caption(scene: Scene, label: str, rng: Random) -> str:
    return sample_example(scene, rng, training_wordings(), label=label).caption


def _awkward(folder: Path, index: int, count: int, rng: Random) -> Pair:
    """A caption whose length grows from 1 word to 120 with the index, about a picture of any size."""
    words = 1 + round(index * (LONGEST_WORDS - 1) / max(1, count - 4))
    premise = _text(rng.randint(1, 12), rng) if rng.random() < 0.4 else None
    picture = _scribble(SIZES[index // 4 % len(SIZES)], rng)
    return Pair(image=_save(picture, folder, index), caption=_text(words, rng), premise=premise)


def _text(words: int, rng: Random) -> str:
    chosen = [rng.choice(WORDS.split()) for _ in range(words)]
    chosen = [word.upper() if rng.random() < 0.2 else word for word in chosen]
    text = "".join(
        word + (rng.choice(MARKS) if rng.random() < 0.1 else "") + " " * rng.choice((1, 1, 1, 2)) for word in chosen
    )
    return rng.choice(("", "", " ", "...", "#", "-")) + text + rng.choice(("", ".", "\n"))


def _scribble(size: tuple[int, int], rng: Random) -> Image.Image:
    picture = Image.new("RGB", size, _colour(rng))
    pen = ImageDraw.Draw(picture)
    for _ in range(12):
        left, right = sorted(rng.randrange(size[0] + 1) for _ in range(2))
        top, bottom = sorted(rng.randrange(size[1] + 1) for _ in range(2))
        pen.ellipse((left, top, right, bottom), fill=_colour(rng))
    return picture


def _colour(rng: Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _save(picture: Image.Image, folder: Path, index: int) -> str:
    mode = MODES[index % len(MODES)]
    if mode in ("RGBA", "LA"):
        picture = picture.convert(mode)
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    elif mode != "RGB":
        picture = picture.convert(mode)
    extension = {"CMYK": "tif"}.get(mode, "jpg" if index % 16 == 1 else "png")
    name = f"{index:03}-{mode}.{extension}"
    picture.save(folder / name)
    return name


def modes_and_sizes(folder: Path, pairs: Sequence[Pair]) -> tuple[set[str], set[tuple[int, int]]]:
    """What the pictures' files are, for the report."""
    modes, sizes = set(), set()
    for pair in pairs:
        with Image.open(folder / pair.image) as picture:
            modes.add(picture.mode)
            sizes.add(picture.size)
    return modes, sizes
