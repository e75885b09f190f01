"""The drawn world's labels are computed: here they are checked by other means."""

import hashlib
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.captions import LABELS, Example, sample_example
from demo.claims import AXES, At, Claim, Description, Exists, Is, Says, Stands
from demo.drawing import draw
from demo.scenes import COLOURS, KINDS, PATTERNS, SIZES, WORDS, Scene, scene_of
from demo.wordings import EXTRA_ADJECTIVES, EXTRAS, TRAINING, heldout_wordings, training_wordings
from worker.engines.ofa_text import clean

SEEDS = st.integers(min_value=0, max_value=30_000_000)


Fact = tuple[str, str, str, str, int, int]


def facts(scene: Scene, what: Description) -> list[Fact]:
    """The things that a description may mean, as plain tuples."""
    plain = [(one.kind, one.colour, one.size, one.pattern, one.column, one.row) for one in scene.things]
    asked = (what.kind, what.colour, what.size, what.pattern)
    return [one for one in plain if all(a is None or a == b for a, b in zip(asked, one, strict=False))]


def holds(scene: Scene, claim: Claim) -> bool:
    """An oracle of its own: it reads the picture's facts and knows nothing of the code that makes captions."""
    match claim:
        case Says(word=word):
            return scene.card is not None and scene.card.word == word
        case Exists(what=what, number=int(number)):
            return len(facts(scene, what)) == number
        case Exists(what=what, plural=plural):
            return len(facts(scene, what)) >= (2 if plural else 1)
        case Is(what=what, attribute=attribute, value=value):
            column = ("kind", "colour", "size", "pattern").index(attribute)
            seen = {one[column] for one in facts(scene, what)}
            return seen == {value}
        case At(what=what, side=side):
            edge = {"left": (4, 0), "right": (4, 2), "top": (5, 0), "bottom": (5, scene.rows - 1)}[side]
            return any(one[edge[0]] == edge[1] for one in facts(scene, what))
        case Stands(what=what, relation=relation, other=other):
            return any(
                stands(first[4:], relation, second[4:])
                for first in facts(scene, what)[:1]
                for second in facts(scene, other)[:1]
            )


def stands(first: tuple[int, ...], relation: str, second: tuple[int, ...]) -> bool:
    """Compare two places, each a column and a row."""
    return {
        "left of": first[0] < second[0],
        "right of": first[0] > second[0],
        "above": first[1] < second[1],
        "below": first[1] > second[1],
    }[relation]


def examples(count: int, wordings: dict[str, tuple[str, ...]], seed: int = 1) -> list[tuple[Scene, Example]]:
    """Examples of every label, about as many pictures as asked for."""
    rng, found = Random(seed), []
    for number in range(count):
        scene = scene_of(number + 40_000_000)
        found.append((scene, sample_example(scene, rng, wordings, label=LABELS[number % 3])))
    return found


@given(seed=SEEDS, label=st.sampled_from(LABELS))
@settings(max_examples=300, deadline=None)
def test_a_yes_fact_holds_and_a_no_fact_does_not(seed: int, label: str) -> None:
    """A label that is wrong by construction would make every figure of the model card worthless."""
    scene = scene_of(seed)
    example = sample_example(scene, Random(seed), training_wordings(), label=label)
    assert holds(scene, example.claim) == (label != "no")
    assert (example.extra is not None) >= (label == "maybe")
    assert not (label == "yes" and example.extra)


@given(seed=SEEDS, label=st.sampled_from(LABELS))
@settings(max_examples=200, deadline=None)
def test_a_caption_says_what_its_claim_says(seed: int, label: str) -> None:
    """A right claim in wrong words is a wrong label too."""
    example = sample_example(scene_of(seed), Random(seed), training_wordings(), label=label)
    caption, claim = clean(example.caption, max_words=80)[0], example.claim
    said = [claim.word] if isinstance(claim, Says) else [claim.what.kind, claim.what.colour or ""]
    if isinstance(claim, Is):
        said.append(claim.value)
    if isinstance(claim, At | Stands):
        said.append(claim.side if isinstance(claim, At) else claim.relation)
    if isinstance(claim, Exists) and claim.number:
        words = caption.replace(".", " ").replace(",", " ").split()
        assert {str(claim.number), ("one", "two", "three", "four", "five")[claim.number - 1]} & set(words)
    assert all(word in caption for word in [*said, example.extra or ""])


@pytest.mark.parametrize("seed", [0, 7, 10_000_000, 20_000_123])
def test_a_seed_draws_the_same_picture_always(seed: int) -> None:
    """The samples and the evaluation must mean the same pictures on every machine."""
    first, second = draw(scene_of(seed)), draw(scene_of(seed))
    assert hashlib.sha256(first.tobytes()).digest() == hashlib.sha256(second.tobytes()).digest()
    assert first.size == (scene_of(seed).width, scene_of(seed).height)


def test_every_axis_and_label_comes_in_many_wordings() -> None:
    """A model that knows one template by heart has learnt no fact: at least three wordings of each."""
    seen: dict[tuple[str, str], Counter[str]] = {}
    for _, example in examples(3000, training_wordings()):
        seen.setdefault((example.axis, example.label), Counter())[example.wording] += 1
    assert set(seen) == {(axis, label) for axis in AXES for label in LABELS}
    assert {key: len(wordings) for key, wordings in seen.items() if len(wordings) < 5} == {}


def test_an_extra_alone_gives_no_label_away() -> None:
    """If only maybe captions had extras, the model would not need to look at the picture for them."""
    no = [example for _, example in examples(3000, training_wordings()) if example.label == "no"]
    assert 0.3 < sum(example.extra is not None for example in no) / len(no) < 0.5


def test_heldout_wordings_stay_out_of_training() -> None:
    """Held-out wordings measure reading only as long as training never meets one."""
    heldout = heldout_wordings()
    assert set(heldout) == set(TRAINING)
    assert all(len(templates) >= 3 for templates in heldout.values())
    both = {group: set(TRAINING[group]) & set(heldout[group]) for group in heldout}
    assert both == {group: set() for group in heldout}


def test_training_refuses_a_heldout_wording(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file fixes them: a slip in the code must stop the training, not spoil the figure."""
    spoilt = {**TRAINING, "says": (*TRAINING["says"], heldout_wordings()["says"][0])}
    monkeypatch.setattr("demo.wordings.TRAINING", spoilt)
    with pytest.raises(ValueError, match="held-out wordings of 'says'"):
        training_wordings()


def test_heldout_wordings_use_known_words_alone() -> None:
    """They test a new arrangement, not new words."""
    known = {word for templates in TRAINING.values() for template in templates for word in template.split()}
    used = {word for templates in heldout_wordings().values() for template in templates for word in template.split()}
    assert used - known == set()


def test_the_world_has_no_two_names_alike() -> None:
    """A word that is a colour and an extra at once would have two meanings."""
    names = [*KINDS, *COLOURS, *SIZES, *PATTERNS, *WORDS, *EXTRA_ADJECTIVES, *(phrase for _, phrase in EXTRAS)]
    assert Counter(names).most_common(1)[0][1] == 1
