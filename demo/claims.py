"""Claims about a scene: what a caption says, and whether it is true.

The truth of a claim is computed from the scene alone. None means that the claim is a matter of taste ("the circle is
red" beside a red and a blue circle): such claims are never put into words.
"""

from dataclasses import dataclass

from demo.scenes import Scene, Thing

AXES = ("thing", "colour", "count", "size", "place", "pattern", "word")
ATTRIBUTES = ("kind", "colour", "size", "pattern")
SIDES = ("left", "right", "top", "bottom")
RELATIONS = ("left of", "right of", "above", "below")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A description of things; an attribute that is None is left open."""

    kind: str
    colour: str | None = None
    size: str | None = None
    pattern: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Say whether a thing answers this description."""
        return all(getattr(self, name) in (None, getattr(thing, name)) for name in ATTRIBUTES)

    def among(self, scene: Scene) -> list[Thing]:
        """Return the things of a scene that answer this description."""
        return [thing for thing in scene.things if self.fits(thing)]

    def but(self, attribute: str, value: str | None) -> "Description":
        """Return this description with one attribute changed."""
        values = {name: getattr(self, name) for name in ATTRIBUTES} | {attribute: value}
        return Description(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exists:
    """There are such things: `number` of them, or (None) one if not plural, several if plural."""

    axis: str
    what: Description
    number: int | None
    plural: bool

    def truth(self, scene: Scene) -> bool | None:
        """Compare with the number of things that answer the description."""
        seen = len(self.what.among(scene))
        if self.number is not None:
            return seen == self.number
        if seen == 0:
            return False
        return True if (seen > 1) == self.plural else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Is:
    """The things of a description have an attribute of this value."""

    axis: str
    what: Description
    attribute: str
    value: str
    plural: bool

    def truth(self, scene: Scene) -> bool | None:
        """True or false when all of them agree; false when there are none."""
        things = self.what.among(scene)
        if not things:
            return False
        if (len(things) > 1) != self.plural:
            return None
        values = {getattr(thing, self.attribute) for thing in things}
        if self.value not in values:
            return False
        return True if len(values) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """The one thing of a description stands at a side of the picture."""

    axis: str
    what: Description
    side: str

    def truth(self, scene: Scene) -> bool | None:
        """True on that side's outer column or row, false on the opposite one, nothing in the middle."""
        things = self.what.among(scene)
        if not things:
            return False
        # On a card the banner takes the top or the bottom: what stands at the top is a matter of taste there.
        if len(things) > 1 or (scene.card and self.side in ("top", "bottom")):
            return None
        position, last = (
            (things[0].column, scene.columns - 1) if self.side in ("left", "right") else (things[0].row, scene.rows - 1)
        )
        if position not in (0, last):
            return None
        return (position == 0) == (self.side in ("left", "top"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stands:
    """One thing stands left of, right of, above or below another."""

    axis: str
    what: Description
    relation: str
    other: Description

    def truth(self, scene: Scene) -> bool | None:
        """Compare columns or rows; in the same one it is a matter of taste."""
        first, second = self.what.among(scene), self.other.among(scene)
        if not first or not second:
            return False
        if len(first) > 1 or len(second) > 1:
            return None
        if self.relation in ("left of", "right of"):
            difference = first[0].column - second[0].column
        else:
            difference = first[0].row - second[0].row
        if difference == 0:
            return None
        return (difference < 0) == (self.relation in ("left of", "above"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """A word is printed on the banner."""

    axis: str
    word: str

    def truth(self, scene: Scene) -> bool | None:
        """Compare with the card's word; false without a card."""
        return scene.card is not None and scene.card.word == self.word


Claim = Exists | Is | At | Stands | Says
