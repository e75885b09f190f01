"""Pairs of the drawn world that no training saw, for measurements that need trained answers."""

from collections.abc import Iterator
from random import Random

from PIL import Image

from demo.captions import LABELS, sample_example
from demo.drawing import draw, through_a_file
from demo.evaluate import CAPTIONS_A_PICTURE, FIRST_SEED
from demo.scenes import scene_of
from demo.wordings import heldout_wordings, training_wordings

PREMISE_EVERY = 8


def heldout_pairs(count: int) -> Iterator[tuple[Image.Image, str, str | None]]:
    """Yield (picture, caption, premise); the same ones for the same count's prefix, labels equally often.

    Four captions a picture, of known wordings and held-out ones in turn, every eighth with a premise.
    """
    for index in range(count):
        picture_number, turn = divmod(index, CAPTIONS_A_PICTURE)
        seed = FIRST_SEED + picture_number
        if turn == 0:
            scene, picture = scene_of(seed), through_a_file(draw(scene_of(seed)), Random(f"file {seed}"))
        rng = Random(f"precision {seed} {turn}")
        wordings = heldout_wordings() if index % 2 else training_wordings()
        caption = sample_example(scene, rng, wordings, label=LABELS[index % len(LABELS)]).caption
        premised = index % PREMISE_EVERY == PREMISE_EVERY - 1
        premise = sample_example(scene, rng, wordings, label="yes").caption if premised else None
        yield picture, caption, premise
