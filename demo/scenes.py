"""Scenes of the drawn world: what is in a picture, before it is drawn.

A scene is a few groups of things on a grid of cells, and sometimes a banner with a printed word (then it is a card).
Everything that a caption may claim can be read from these values, so that a label is a computation, not an opinion.
"""

from dataclasses import dataclass
from random import Random

KINDS = ("circle", "square", "triangle", "star", "heart", "moon", "cup", "bottle", "shirt", "house", "tree", "boat")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
SIZES = ("small", "big")
PATTERNS = ("plain", "striped", "dotted")
WORDS = ("sale", "new", "sold", "free", "open", "hot")
BACKGROUNDS = ((255, 255, 255), (244, 244, 240), (232, 238, 246), (250, 243, 226), (230, 243, 232))
MAX_COUNT = 5

# The side of a thing as a share of its cell's shorter side: far enough apart that "small" and "big" are never a
# matter of taste, also after the model has squashed the picture to a square.
SIDE_OF = {"small": (0.50, 0.58), "big": (0.88, 0.96)}
BANNER_HEIGHT = 0.24

Look = tuple[str, str, str, str]
"""Kind, colour, size and pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One drawn thing. x is a share of the width, y and side are shares of the height of the picture."""

    kind: str
    colour: str
    size: str
    pattern: str
    column: int
    row: int
    x: float
    y: float
    side: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A banner with a printed word. It makes the picture a product card."""

    word: str
    colour: str
    at_top: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A whole picture in words; columns and rows give the grid on which its things stand."""

    width: int
    height: int
    background: tuple[int, int, int]
    columns: int
    rows: int
    things: tuple[Thing, ...]
    card: Card | None


def scene_of(seed: int) -> Scene:
    """Return the scene of a seed: the same one always."""
    return sample_scene(Random(seed))


def sample_scene(rng: Random) -> Scene:
    """Draw a scene by lot."""
    width, height = _sample_extent(rng)
    card = None
    if rng.random() < 0.3:
        card = Card(word=rng.choice(WORDS), colour=rng.choice(COLOURS), at_top=rng.random() < 0.5)
    columns, rows = 3, 2 if card else 3
    cells = [(column, row) for column in range(columns) for row in range(rows)]
    rng.shuffle(cells)
    things: list[Thing] = []
    for look, count in _sample_groups(rng, len(cells)):
        for _ in range(count):
            things.append(_place(rng, look, cells.pop(), card=card, rows=rows, aspect=width / height))  # noqa: PERF401 - rng and cells change
    return Scene(
        width=width,
        height=height,
        background=rng.choice(BACKGROUNDS),
        columns=columns,
        rows=rows,
        things=tuple(things),
        card=card,
    )


def _sample_extent(rng: Random) -> tuple[int, int]:
    longer = rng.randint(200, 480)
    shorter = round(longer * rng.uniform(0.8, 1.0))
    return (longer, shorter) if rng.random() < 0.5 else (shorter, longer)


def _sample_groups(rng: Random, room: int) -> list[tuple[Look, int]]:
    """Return one to three groups and their sizes, never two of one kind and colour."""
    groups: list[tuple[Look, int]] = []
    for _ in range(rng.choices((1, 2, 3), weights=(3, 4, 3))[0]):
        # A kind that is there already, in another colour, makes captions look at kind and colour together.
        kind = groups[0][0][0] if groups and rng.random() < 0.15 else rng.choice(KINDS)
        colour = rng.choice(COLOURS)
        count = rng.choices((1, 2, 3, 4, 5), weights=(9, 4, 3, 2, 2))[0]
        if count > room or any((kind, colour) == other[:2] for other, _ in groups):
            continue
        # No kind has more than five things in all: the world counts to five.
        if sum(many for other, many in groups if other[0] == kind) + count > MAX_COUNT:
            continue
        room -= count
        pattern = rng.choices(PATTERNS, weights=(2, 1, 1))[0]
        groups.append(((kind, colour, rng.choice(SIZES), pattern), count))
    return groups


def _place(rng: Random, look: Look, cell: tuple[int, int], *, card: Card | None, rows: int, aspect: float) -> Thing:
    """Put a thing somewhere inside its cell; aspect is the picture's width over its height."""
    kind, colour, size, pattern = look
    top, height = 0.0, 1.0
    if card:
        height = 1.0 - BANNER_HEIGHT
        top = BANNER_HEIGHT if card.at_top else 0.0
    cell_width, cell_height = 1.0 / 3.0, height / rows
    # Sides are shares of the picture's height from here on; a cell's width in that unit is cell_width * aspect.
    side = rng.uniform(*SIDE_OF[size]) * min(cell_width * aspect, 1.0 / 3.0)
    slack_x = max(0.0, cell_width - side / aspect) / 2
    slack_y = max(0.0, cell_height - side) / 2
    column, row = cell
    return Thing(
        kind=kind,
        colour=colour,
        size=size,
        pattern=pattern,
        column=column,
        row=row,
        x=(column + 0.5) * cell_width + rng.uniform(-slack_x, slack_x) * 0.8,
        y=top + (row + 0.5) * cell_height + rng.uniform(-slack_y, slack_y) * 0.8,
        side=side,
    )
