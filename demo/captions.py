"""From a claim to a caption, and from a scene to labelled examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from demo.choosing import false_claim, true_claim
from demo.claims import AXES, At, Claim, Description, Exists, Is, Says, Stands
from demo.scenes import Scene
from demo.wordings import EXTRA_ADJECTIVES, EXTRAS

LABELS = ("yes", "no", "maybe")
NUMBERS = ("no", "one", "two", "three", "four", "five")
AT = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
# "no" captions carry something that cannot be seen about as often as makes it worthless as a hint.
EXTRA_IN_NO = 0.4
# A picture without a card has no true caption about a word. Few "no" captions are about such things, so that the axis
# alone does not give the label away.
NO_WHERE_NOTHING_IS_TRUE = 0.15
AXIS_WEIGHTS = {"thing": 1.0, "colour": 1.0, "count": 1.7, "size": 1.0, "place": 2.2, "pattern": 1.0, "word": 1.5}

Wordings = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A caption of a picture, with the label that it deserves. The wording is "group: template"."""

    caption: str
    label: str
    axis: str
    wording: str
    claim: Claim
    extra: str | None


def sample_example(
    scene: Scene, rng: Random, wordings: Wordings, *, label: str, axes: Sequence[str] = AXES, extras: bool = True
) -> Example:
    """Return a caption with this label, on an axis by lot among those that the scene has something to say on."""
    weights = [AXIS_WEIGHTS[axis] for axis in axes]
    while True:
        claim = true_claim(scene, rng, axis := rng.choices(axes, weights)[0])
        if label == "no" and (claim is not None or rng.random() < NO_WHERE_NOTHING_IS_TRUE):
            claim = false_claim(scene, rng, axis)
        if claim is not None:
            break
    extra = label == "maybe" or (extras and label == "no" and rng.random() < EXTRA_IN_NO)
    caption, wording, phrase = _word(claim, rng, wordings, extra=extra)
    return Example(caption=caption, label=label, axis=claim.axis, wording=wording, claim=claim, extra=phrase)


def _word(claim: Claim, rng: Random, wordings: Wordings, *, extra: bool) -> tuple[str, str, str | None]:
    """Return the caption, its wording and the extra phrase, if one was asked for."""
    group = group_of(claim)
    template = rng.choice(wordings[group])
    adjective = rng.choice(EXTRA_ADJECTIVES) if extra and "{np}" in template and rng.random() < 0.25 else None
    plural = isinstance(claim, Exists | Is) and claim.plural
    caption = template.format_map(_slots(claim, rng, plural=plural, adjective=adjective))
    phrase = adjective
    if extra and adjective is None:
        caption, phrase = _add_extra(caption, rng, plural=plural, after_a_thing=template.endswith("{np}"))
    if rng.random() < 0.3:
        caption = caption[0].upper() + caption[1:]
    if rng.random() < 0.3:
        caption += "."
    return caption, f"{group}: {template}", phrase


def group_of(claim: Claim) -> str:
    """Return the group of wordings that a claim can be put in."""
    match claim:
        case Exists():
            return "count" if claim.axis == "count" else "exists"
        case Is():
            return f"is {claim.attribute}"
        case At():
            return "at"
        case Stands():
            return "stands"
        case Says():
            return "says"


def _slots(claim: Claim, rng: Random, *, plural: bool, adjective: str | None) -> dict[str, str]:
    slots = {"is": "are" if plural else "is", "has": "have" if plural else "has"}
    if isinstance(claim, Says):
        return slots | {"word": claim.word}
    number = claim.number if isinstance(claim, Exists) else None
    bare = _bare(claim.what, rng, plural=plural, adjective=adjective)
    counted = _number(number, rng) if number is not None else None
    slots |= {"np": _noun_phrase(bare, counted, plural=plural, rng=rng), "the": f"the {bare}"}
    if counted is not None and number is not None:
        slots |= {"n": counted, "bare": _bare(claim.what, rng, plural=True, adjective=adjective)}
    match claim:
        case Is():
            slots["value"] = claim.value
        case At():
            slots["at"] = AT[claim.side] if rng.random() < 0.6 else f"{AT[claim.side]} side"
        case Stands():
            other = _bare(claim.other, rng, plural=False, adjective=None)
            relation = claim.relation
            if relation.endswith(" of") and rng.random() < 0.4:
                relation = f"to the {relation}"
            slots |= {"rel": relation, "np2": _article(other), "the2": f"the {other}"}
    return slots


def _bare(what: Description, rng: Random, *, plural: bool, adjective: str | None) -> str:
    """Return for example "big striped red circles", "big circles in red" or "circles that are big and red"."""
    noun = what.kind + "s" if plural else what.kind
    before = [word for word in (what.size, what.pattern, what.colour) if word]
    lead = f"{adjective} " if adjective else ""
    form = rng.random()
    if what.colour and form < 0.12:
        return lead + " ".join([*before[:-1], noun, "in", what.colour])
    if before and form < 0.24:
        return f"{lead}{noun} that {'are' if plural else 'is'} {' and '.join(before)}"
    if len(before) > 1 and form < 0.4:
        rng.shuffle(before)
    return lead + " ".join([*before, noun])


def _noun_phrase(bare: str, counted: str | None, *, plural: bool, rng: Random) -> str:
    if counted is not None:
        return f"{counted} {bare}"
    if plural:
        return f"some {bare}" if rng.random() < 0.4 else bare
    return _article(bare)


def _article(bare: str) -> str:
    return f"an {bare}" if bare[0] in "aeiou" else f"a {bare}"


def _number(number: int, rng: Random) -> str:
    return str(number) if rng.random() < 0.3 else NUMBERS[number]


def _add_extra(caption: str, rng: Random, *, plural: bool, after_a_thing: bool) -> tuple[str, str]:
    """Add something that cannot be seen; right after a thing it needs no verb."""
    be, phrase = rng.choice(EXTRAS)
    if after_a_thing and rng.random() < 0.5:
        return f"{caption} {phrase}", phrase
    if rng.random() < 0.25:
        return f"{caption}, {phrase}", phrase
    verb = {"is": "are", "was": "were"}[be] if plural else be
    return f"{caption} and {'they' if plural else 'it'} {verb} {phrase}", phrase
