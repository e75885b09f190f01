"""The wordings of the drawn world: many arrangements of few words for every kind of fact.

The templates here are the ones to train on. The held-out ones live in heldout_wordings.json alone: known words in an
arrangement that training never shows, so that evaluation can tell reading from knowing templates by heart.

Slots: {np} a noun phrase ("a red circle", "three circles that are red"), {bare} the same without article or number,
{n} a number, {the} "the red circle", {value} an attribute's value, {at} a side, {rel} a relation, {np2} and {the2} the
other thing, {word} the printed word; {is} {has} follow the number.
"""

import json
from pathlib import Path

HELDOUT_FILE = Path(__file__).parent / "heldout_wordings.json"

TRAINING: dict[str, tuple[str, ...]] = {
    "exists": (
        "{np}",
        "there {is} {np}",
        "the picture shows {np}",
        "a picture of {np}",
        "you can see {np}",
        "{np} can be seen",
        "we see {np} here",
        "here {is} {np}",
        "this is a picture with {np}",
        "it shows {np}",
        "{np} in the picture",
        "there {is} {np} in this picture",
        "in the picture there {is} {np}",
        "we can see that there {is} {np}",
    ),
    "count": (
        "{np}",
        "exactly {np}",
        "there {is} {np}",
        "there {is} exactly {np}",
        "the picture shows {np}",
        "this picture has {np}",
        "you can count {np}",
        "you can see exactly {np}",
        "the number of {bare} is {n}",
        "a picture of {np}",
        "we see {np} here",
        "{np} can be seen",
        "in this picture there {is} {np}",
        "the picture has exactly {np} in it",
    ),
    "is colour": (
        "{the} {is} {value}",
        "the colour of {the} is {value}",
        "{the} {has} the colour {value}",
        "you can see that {the} {is} {value}",
        "the picture shows that {the} {is} {value}",
        "in the picture {the} {is} {value}",
        "{value} is the colour of {the}",
        "{the} in this picture {is} {value}",
    ),
    "is size": (
        "{the} {is} {value}",
        "{the} {is} drawn {value}",
        "the size of {the} is {value}",
        "you can see that {the} {is} {value}",
        "the picture shows that {the} {is} {value}",
        "in the picture {the} {is} {value}",
        "{the} {has} a {value} size",
        "{the} in this picture {is} {value}",
    ),
    "is pattern": (
        "{the} {is} {value}",
        "{the} {has} a {value} pattern",
        "the pattern of {the} is {value}",
        "you can see that {the} {is} {value}",
        "the picture shows that {the} {is} {value}",
        "in the picture {the} {is} {value}",
        "{the} {is} drawn {value}",
        "{the} in this picture {is} {value}",
    ),
    "at": (
        "{the} is {at}",
        "{np} {at}",
        "there is {np} {at}",
        "{the} is {at} of the picture",
        "{at} there is {np}",
        "{at} you can see {np}",
        "the picture shows {np} {at}",
        "you can see {np} {at}",
        "{the} can be seen {at}",
        "{at} of the picture is {np}",
    ),
    "stands": (
        "{the} is {rel} {the2}",
        "{np} {rel} {np2}",
        "there is {np} {rel} {np2}",
        "you can see {np} {rel} {np2}",
        "the picture shows {np} {rel} {np2}",
        "{the} can be seen {rel} {the2}",
        "in the picture {the} is {rel} {the2}",
        "we see {np} {rel} {np2} here",
    ),
    "says": (
        "the card says {word}",
        "the word {word} is printed on the card",
        "a card with the word {word}",
        "the picture shows the word {word}",
        "the printed word is {word}",
        "you can read the word {word}",
        "there is a card that says {word}",
        "{word} is printed on the card",
        'the card says "{word}"',
        "this is a card with the word {word} on it",
    ),
}

# What nobody can see. "be" is the verb that goes before it in "and it is made of wood".
EXTRAS: tuple[tuple[str, str], ...] = (
    *(("is", f"made of {material}") for material in ("wood", "glass", "metal", "paper", "plastic", "wool")),
    *(("was", f"painted on {day}") for day in ("monday", "tuesday", "friday", "sunday")),
    *(("was", f"bought in {place}") for place in ("spain", "japan", "a shop", "brazil")),
    *(("is", f"owned by {person}") for person in ("anna", "tom", "maria", "a doctor", "the king")),
    *(("was", f"sold for {price}") for price in ("five dollars", "ten euros", "a lot of money", "one dollar")),
    *(("was", phrase) for phrase in ("made last year", "found in a garden", "drawn by a child", "lost for a week")),
)
EXTRA_ADJECTIVES = ("wooden", "expensive", "heavy", "old", "cheap", "famous")


def heldout_wordings() -> dict[str, tuple[str, ...]]:
    """Return the held-out templates of every group, from the file that fixes them."""
    groups = json.loads(HELDOUT_FILE.read_text(encoding="utf-8"))["wordings"]
    return {str(group): tuple(str(template) for template in templates) for group, templates in groups.items()}


def training_wordings() -> dict[str, tuple[str, ...]]:
    """Return the templates to train on; raises ValueError if one of them is held out."""
    heldout = heldout_wordings()
    for group, templates in TRAINING.items():
        both = set(templates) & set(heldout[group])
        if both:
            raise ValueError(f"held-out wordings of {group!r} are in the training set: {sorted(both)}")
    return TRAINING
