"""Choosing a claim about a scene by lot: a true one or a false one, on a given axis."""

from random import Random

from demo.claims import ATTRIBUTES, RELATIONS, SIDES, At, Claim, Description, Exists, Is, Says, Stands
from demo.scenes import COLOURS, KINDS, MAX_COUNT, PATTERNS, SIZES, WORDS, Scene, Thing, sample_scene

VALUES = {"kind": KINDS, "colour": COLOURS, "size": SIZES, "pattern": PATTERNS}
ATTRIBUTE_OF = {"thing": "kind", "colour": "colour", "size": "size", "pattern": "pattern"}
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
TURNED = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
TRIES = 12


def true_claim(scene: Scene, rng: Random, axis: str) -> Claim | None:
    """Return a claim that holds in the scene, or None when the scene has nothing to say on this axis."""
    for _ in range(TRIES):
        claim = _propose(scene, rng, axis)
        if claim is not None and claim.truth(scene) is True:
            return claim
    return None


def false_claim(scene: Scene, rng: Random, axis: str) -> Claim | None:
    """Return a claim that the scene contradicts: mostly a true one made wrong, sometimes another scene's."""
    for _ in range(TRIES):
        if rng.random() < 0.2:
            claim = true_claim(sample_scene(rng), rng, axis)
        else:
            right = _propose(scene, rng, axis)
            claim = _spoil(right, scene, rng) if right is not None and right.truth(scene) is True else None
        if claim is not None and claim.truth(scene) is False:
            return claim
    return None


def _propose(scene: Scene, rng: Random, axis: str) -> Claim | None:
    if axis == "word":
        return Says(axis=axis, word=scene.card.word) if scene.card else None
    if not scene.things:
        return None
    thing = rng.choice(scene.things)
    if axis == "place":
        return _propose_place(scene, rng, thing)
    if axis == "count":
        what = _describe(thing, rng, must=())
        return Exists(axis=axis, what=what, number=len(what.among(scene)), plural=len(what.among(scene)) > 1)
    attribute = ATTRIBUTE_OF[axis]
    if axis != "thing" and rng.random() < 0.45:
        # "the red circle is big": described without the attribute in question.
        what = _describe(thing, rng, must=()).but(attribute, None)
        value = getattr(thing, attribute)
        return Is(axis=axis, what=what, attribute=attribute, value=value, plural=len(what.among(scene)) > 1)
    what = _describe(thing, rng, must=(attribute,))
    seen = len(what.among(scene))
    number = seen if seen > 1 and rng.random() < 0.3 else None
    return Exists(axis=axis, what=what, number=number, plural=seen > 1)


def _propose_place(scene: Scene, rng: Random, thing: Thing) -> Claim:
    what = _describe(thing, rng, must=(), plain=True)
    others = [other for other in scene.things if (other.kind, other.colour) != (thing.kind, thing.colour)]
    if others and rng.random() < 0.4:
        other = _describe(rng.choice(others), rng, must=(), plain=True)
        return Stands(axis="place", what=what, relation=rng.choice(RELATIONS), other=other)
    return At(axis="place", what=what, side=rng.choice(SIDES))


def _describe(thing: Thing, rng: Random, *, must: tuple[str, ...], plain: bool = False) -> Description:
    """Describe a thing by its kind, the attributes that must be there and some others (plain: the colour at most)."""
    chances = {"kind": 1.0, "colour": 0.5, "size": 0.0 if plain else 0.12, "pattern": 0.0 if plain else 0.12}
    chosen = {name: getattr(thing, name) for name in ATTRIBUTES if name in must or rng.random() < chances[name]}
    return Description(**chosen)


def _spoil(claim: Claim, scene: Scene, rng: Random) -> Claim:
    """Return the claim with the part that its axis names made wrong; it is for the caller to check that it is."""
    match claim:
        case Says():
            return Says(axis=claim.axis, word=_another(WORDS, claim.word, rng))
        case At():
            return At(axis=claim.axis, what=claim.what, side=OPPOSITE[claim.side])
        case Stands():
            return Stands(axis=claim.axis, what=claim.what, relation=TURNED[claim.relation], other=claim.other)
        case Is():
            value = _another(VALUES[claim.attribute], claim.value, rng, near=_values(scene, claim.attribute))
            return Is(axis=claim.axis, what=claim.what, attribute=claim.attribute, value=value, plural=claim.plural)
        case Exists(number=int(number)) if claim.axis == "count":
            wrong = rng.choice([other for other in range(1, MAX_COUNT + 1) if other != number])
            return Exists(axis=claim.axis, what=claim.what, number=wrong, plural=wrong > 1)
        case Exists():
            attribute = ATTRIBUTE_OF[claim.axis]
            right = getattr(claim.what, attribute)
            value = _another(VALUES[attribute], right, rng, near=_values(scene, attribute))
            what = claim.what.but(attribute, value)
            return Exists(axis=claim.axis, what=what, number=claim.number, plural=claim.plural)


def _values(scene: Scene, attribute: str) -> tuple[str, ...]:
    return tuple(getattr(thing, attribute) for thing in scene.things)


def _another(values: tuple[str, ...], right: str, rng: Random, near: tuple[str, ...] = ()) -> str:
    """Return another value, half of the time one that is in the picture on another thing: the harder lie."""
    nearby = [value for value in near if value != right]
    if nearby and rng.random() < 0.5:
        return rng.choice(nearby)
    return rng.choice([value for value in values if value != right])
