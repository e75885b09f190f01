"""Batches of questions about pooled pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from demo.captions import LABELS, Wordings, sample_example
from demo.claims import AXES, Claim, Description, Is, Says, Stands
from demo.network import Questions, pad
from demo.pool import GRID, TARGETS, Pool
from demo.prompts import Reader, prompt
from demo.scenes import WORDS, Scene

# One batch in twelve asks with a premise: a true caption of the same picture, which settles nothing by itself.
PREMISE_SHARE = 1 / 12
# Easy questions: with few extras about, an answer cannot be guessed from the caption, and looking pays from the start.
EASY_LABELS = (0.45, 0.45, 0.1)
# Numbers and sides are learnt last: training asks about them more often than the evaluation does.
HARD_AXES = (*AXES, "count", "place", "place")
EASY_AXES = ("thing", "colour", "word", "pattern")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Pictures (indices into a pool), questions about them, what they point at, labels as indices and axes.

    `wanted` (questions, 2, len(TARGETS)) holds two descriptions of a question in the numbers of a pool's places; 0 is
    left open. `census` (questions, 2, 3) tells of both how many there are and, where there is one alone, its column and
    row in thirds of the picture (-1 otherwise, and everywhere in a batch with premises, which name other things).
    `centres` (pictures, GRID, GRID) is 1 where a thing has its centre.
    """

    pictures: list[int]
    questions: Questions
    wanted: Tensor
    census: Tensor
    centres: Tensor
    labels: Tensor
    axes: list[str]

    def parts(self, size: int) -> "list[Batch]":
        """Return the batch cut into smaller ones of `size` pictures; its questions are in the pictures' order."""
        parts = []
        for start in range(0, len(self.pictures), size):
            stop = min(start + size, len(self.pictures))
            chosen = (self.questions.picture >= start) & (self.questions.picture < stop)
            questions = Questions(ids=self.questions.ids[chosen], picture=self.questions.picture[chosen] - start)
            axes = [axis for axis, there in zip(self.axes, chosen.tolist(), strict=True) if there]
            parts.append(
                Batch(
                    pictures=self.pictures[start:stop],
                    questions=questions,
                    wanted=self.wanted[chosen],
                    census=self.census[chosen],
                    centres=self.centres[start:stop],
                    labels=self.labels[chosen],
                    axes=axes,
                )
            )
        return parts


class Examples:
    """Samples batches: every picture gets several captions, a third of them of each label."""

    def __init__(self, pool: Pool, reader: Reader, wordings: Wordings, rng: Random) -> None:
        self._pool = pool
        self._reader = reader
        self._wordings = wordings
        self._rng = rng

    def sample(self, pictures: int, captions: int, *, easy: bool = False) -> Batch:
        """Return a batch about pictures by lot; easy ones ask for what is there, with hardly a maybe."""
        chosen = sorted(self._rng.sample(range(len(self._pool.pictures)), pictures))
        with_premise = not easy and self._rng.random() < PREMISE_SHARE
        axes = EASY_AXES if easy else HARD_AXES
        return self._batch(chosen, captions, axes, with_premise=with_premise, easy=easy)

    def fixed(self, pictures: int, captions: int, *, with_premise: bool = False) -> Batch:
        """Return a batch about the pool's first pictures."""
        return self._batch(list(range(pictures)), captions, AXES, with_premise=with_premise)

    def _batch(
        self, pictures: list[int], captions: int, axes: Sequence[str], *, with_premise: bool, easy: bool = False
    ) -> Batch:
        rng = self._rng
        rows, picture, labels, asked, wanted, census, centres = [], [], [], [], [], [], []
        for index, number in enumerate(pictures):
            scene = self._pool.scene(number)
            centres.append(_centres(scene))
            for _ in range(captions):
                label = rng.choices(LABELS, EASY_LABELS if easy else None)[0]
                example = sample_example(scene, rng, self._wordings, label=label, axes=axes, extras=not easy)
                premise = sample_example(scene, rng, self._wordings, label="yes").caption if with_premise else None
                rows.append(self._reader.ids(prompt(example.caption, premise)))
                picture.append(index)
                labels.append(LABELS.index(label))
                asked.append(example.axis)
                wanted.append([_numbers(what) for what in _meant(example.claim)])
                census.append([[-1] * 3 if with_premise else _census(what, scene) for what in _meant(example.claim)])
        return Batch(
            pictures=pictures,
            questions=Questions(ids=pad(rows), picture=torch.tensor(picture)),
            wanted=torch.tensor(wanted),
            census=torch.tensor(census),
            centres=torch.tensor(centres),
            labels=torch.tensor(labels),
            axes=asked,
        )


def _meant(claim: Claim) -> tuple[Description | str, Description | str]:
    """Return what a claim speaks of, and the same as the claim would have it or the other thing it names."""
    match claim:
        case Says():
            return claim.word, claim.word
        case Is():
            return claim.what, claim.what.but(claim.attribute, claim.value)
        case Stands():
            return claim.what, claim.other
        case _:
            return claim.what, claim.what


def _numbers(what: Description | str) -> list[int]:
    if isinstance(what, str):
        return [0, 0, 0, 0, WORDS.index(what) + 1]
    values = (what.kind, what.colour, what.size, what.pattern)
    return [names.index(value) + 1 if value else 0 for names, value in zip(TARGETS, values, strict=False)] + [0]


def _census(what: Description | str, scene: Scene) -> list[int]:
    if isinstance(what, str):
        return [-1, -1, -1]
    things = what.among(scene)
    if len(things) != 1:
        return [len(things), -1, -1]
    return [1, int(things[0].x * 3), int(things[0].y * 3)]


def _centres(scene: Scene) -> list[list[float]]:
    centres = [[0.0] * GRID for _ in range(GRID)]
    for thing in scene.things:
        centres[int(thing.y * GRID)][int(thing.x * GRID)] = 1.0
    return centres
