"""Pools of pictures, drawn once and kept as arrays of pixels beside what can be seen in them."""

from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image

from demo.drawing import draw, through_a_file
from demo.scenes import COLOURS, KINDS, PATTERNS, SIZES, WORDS, Scene, Thing, scene_of

SIDE = 96
# The ResNet reduces by 16: it sees the picture as GRID x GRID places.
GRID = SIDE // 16
# What is asked of every place: kind, colour, size, pattern of the thing there, the word printed there; 0 is none.
TARGETS = (KINDS, COLOURS, SIZES, PATTERNS, WORDS)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Pictures (count, SIDE, SIDE, 3), their places (count, len(TARGETS), GRID, GRID) and the seed of the first."""

    pictures: Pixels
    places: Pixels
    first_seed: int

    def scene(self, index: int) -> Scene:
        """Return the scene of a picture."""
        return scene_of(self.first_seed + index)


def squash(picture: Image.Image) -> Pixels:
    """Return the pixels as modelscope's preprocessor makes them, before it normalises: a square, bicubic."""
    return np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def open_pool(folder: Path, *, count: int, first_seed: int) -> Pool:
    """Return a pool of pictures from a folder, drawing what is not there yet (about 7 ms a picture)."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{first_seed}-{count}-{SIDE}"
    pictures_file, places_file = folder / f"pictures-{stem}.npy", folder / f"places-{stem}.npy"
    if not places_file.exists():
        pictures = np.lib.format.open_memmap(pictures_file, "w+", np.uint8, (count, SIDE, SIDE, 3))
        places = np.zeros((count, len(TARGETS), GRID, GRID), np.uint8)
        for index in range(count):
            seed = first_seed + index
            scene = scene_of(seed)
            pictures[index] = squash(through_a_file(draw(scene), Random(f"file {seed}")))
            places[index] = places_of(scene)
        pictures.flush()
        np.save(places_file, places)
    return Pool(pictures=np.load(pictures_file, mmap_mode="r"), places=np.load(places_file), first_seed=first_seed)


def places_of(scene: Scene) -> Pixels:
    """Return what is at each place of a picture, as indices into TARGETS plus one; 0 is none."""
    places = np.zeros((len(TARGETS), GRID, GRID), np.uint8)
    if scene.card:
        # The banner is higher than one row of places and lower than two.
        places[4, 0 if scene.card.at_top else GRID - 1, :] = WORDS.index(scene.card.word) + 1
    for thing in scene.things:
        marks = [values.index(value) + 1 for values, value in zip(TARGETS, _features(thing), strict=False)]
        half_y, half_x = thing.side / 2, thing.side * scene.height / scene.width / 2
        for row in range(GRID):
            for column in range(GRID):
                y, x = (row + 0.5) / GRID, (column + 0.5) / GRID
                inside = abs(y - thing.y) < half_y and abs(x - thing.x) < half_x
                centre = int(thing.y * GRID) == row and int(thing.x * GRID) == column
                if inside or centre:
                    places[: len(marks), row, column] = marks
    return places


def _features(thing: Thing) -> tuple[str, ...]:
    return tuple(getattr(thing, name) for name in ("kind", "colour", "size", "pattern"))
