"""From a scene to a picture, with Pillow."""

import io
import math
from random import Random

from PIL import Image, ImageDraw, ImageFont

from demo.scenes import BANNER_HEIGHT, Card, Scene, Thing

PAINT = {
    "red": (214, 34, 34),
    "orange": (245, 130, 20),
    "yellow": (248, 210, 30),
    "green": (34, 150, 60),
    "blue": (30, 80, 210),
    "purple": (124, 44, 160),
    "pink": (245, 130, 185),
    "black": (24, 24, 28),
}
# Drawn twice as large and reduced: smooth edges for a few milliseconds.
SUPERSAMPLING = 2

Point = tuple[float, float]


def _star() -> list[Point]:
    points = []
    for index in range(10):
        radius = 0.5 if index % 2 == 0 else 0.2
        angle = math.pi * index / 5 - math.pi / 2
        points.append((0.5 + radius * math.cos(angle), 0.53 + radius * math.sin(angle)))
    return points


def _heart() -> list[Point]:
    points = []
    for index in range(40):
        t = 2 * math.pi * index / 40
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((0.5 + x / 33, 0.46 - y / 31))
    return points


POLYGONS: dict[str, tuple[list[Point], ...]] = {
    "square": ([(0.04, 0.04), (0.96, 0.04), (0.96, 0.96), (0.04, 0.96)],),
    "triangle": ([(0.5, 0.02), (0.99, 0.96), (0.01, 0.96)],),
    "star": (_star(),),
    "heart": (_heart(),),
    "bottle": ([(0.4, 0.0), (0.6, 0.0), (0.6, 0.3), (0.76, 0.45), (0.76, 1.0), (0.24, 1.0), (0.24, 0.45), (0.4, 0.3)],),
    "shirt": (
        [
            *((0.3, 0.06), (0.7, 0.06), (1.0, 0.3), (0.86, 0.5), (0.74, 0.42)),
            *((0.74, 0.96), (0.26, 0.96), (0.26, 0.42), (0.14, 0.5), (0.0, 0.3)),
        ],
    ),
    "house": ([(0.5, 0.0), (1.0, 0.45), (0.86, 0.45), (0.86, 1.0), (0.14, 1.0), (0.14, 0.45), (0.0, 0.45)],),
    "tree": ([(0.42, 0.6), (0.58, 0.6), (0.58, 1.0), (0.42, 1.0)],),
    "boat": (
        [(0.0, 0.66), (1.0, 0.66), (0.8, 0.96), (0.2, 0.96)],
        [(0.5, 0.02), (0.9, 0.6), (0.5, 0.6)],
        [(0.44, 0.1), (0.44, 0.6), (0.14, 0.6)],
    ),
    "cup": ([(0.06, 0.12), (0.72, 0.12), (0.64, 0.94), (0.14, 0.94)],),
}


def draw(scene: Scene) -> Image.Image:
    """Return the scene as an RGB picture of its own width and height."""
    width, height = scene.width * SUPERSAMPLING, scene.height * SUPERSAMPLING
    picture = Image.new("RGB", (width, height), scene.background)
    if scene.card:
        _draw_card(picture, scene.card)
    for thing in scene.things:
        side = max(2, round(thing.side * height))
        corner = (round(thing.x * width - side / 2), round(thing.y * height - side / 2))
        picture.paste(_fill(thing, side), corner, _outline(thing.kind, side))
    return picture.reduce(SUPERSAMPLING)


def to_file(picture: Image.Image, extension: str, *, quality: int) -> bytes:
    """Return the picture as the bytes of a jpg, png or webp file."""
    buffer = io.BytesIO()
    if extension == "png":
        picture.save(buffer, "PNG", compress_level=3)
    elif extension == "webp":
        picture.save(buffer, "WEBP", quality=quality, method=2)
    else:
        picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def through_a_file(picture: Image.Image, rng: Random) -> Image.Image:
    """Return the picture as it looks after it went through a file of a random format and quality."""
    extension = rng.choices(("jpg", "png", "webp"), weights=(6, 2, 2))[0]
    quality = rng.randint(60, 95)
    if extension == "png":
        return picture
    return Image.open(io.BytesIO(to_file(picture, extension, quality=quality))).convert("RGB")


def _outline(kind: str, side: int) -> Image.Image:
    """Return a mask of side x side pixels, white where the thing is."""
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)

    def ellipse(left: float, top: float, right: float, bottom: float, value: int) -> None:
        pen.ellipse((left * side, top * side, right * side - 1, bottom * side - 1), fill=value)

    if kind == "circle":
        ellipse(0.0, 0.0, 1.0, 1.0, 255)
    elif kind == "moon":
        ellipse(0.06, 0.0, 1.0, 1.0, 255)
        ellipse(0.4, 0.04, 1.2, 0.84, 0)
    elif kind == "tree":
        ellipse(0.1, 0.0, 0.9, 0.72, 255)
    elif kind == "cup":
        ellipse(0.48, 0.24, 1.0, 0.74, 255)
        ellipse(0.6, 0.36, 0.88, 0.62, 0)
    for points in POLYGONS.get(kind, ()):
        pen.polygon([(x * side, y * side) for x, y in points], fill=255)
    return mask


def _fill(thing: Thing, side: int) -> Image.Image:
    """Return the paint of a thing as a square: one colour, or with pale stripes or dots."""
    paint = PAINT[thing.colour]
    fill = Image.new("RGB", (side, side), paint)
    pen = ImageDraw.Draw(fill)
    # A tint instead of white, so that stripes do not cut the outline into pieces on a pale background.
    pale = tuple(round(0.3 * part + 0.7 * 255) for part in paint)
    # Fewer stripes and dots on a small thing: the model sees it on about 16 pixels.
    steps = 4 if thing.size == "big" else 3
    period = side / steps
    if thing.pattern == "striped":
        for step in range(steps):
            top = (step + 0.55) * period
            pen.rectangle((0, top, side, top + 0.45 * period), fill=pale)
    elif thing.pattern == "dotted":
        radius = 0.27 * period
        for row in range(steps):
            for column in range(steps):
                x, y = (column + 0.5) * period, (row + 0.5) * period
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=pale)
    return fill


def _draw_card(picture: Image.Image, card: Card) -> None:
    """Draw the banner and its word in capitals."""
    width, height = picture.size
    band = round(height * BANNER_HEIGHT)
    top = 0 if card.at_top else height - band
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, top, width, top + band), fill=PAINT[card.colour])
    ink = (20, 20, 20) if card.colour in ("yellow", "pink", "orange") else (255, 255, 255)
    font = ImageFont.load_default(size=min(band * 0.95, width * 0.24))
    pen.text((width / 2, top + band / 2), card.word.upper(), fill=ink, font=font, anchor="mm")
