"""Batches of questions about pooled pictures."""

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from demo.captions import LABELS, Wordings, sample_example
from demo.claims import AXES, Claim, Description, Is, Says, Stands
from demo.network import Questions, pad
from demo.pool import TARGETS, Pool
from demo.prompts import Reader, prompt
from demo.scenes import WORDS

# One batch in twelve asks with a premise: a true caption of the same picture, which settles nothing by itself.
PREMISE_SHARE = 1 / 12
# Easy questions: with few extras about, an answer cannot be guessed from the caption, and looking pays from the start.
EASY_LABELS = (0.45, 0.45, 0.1)
EASY_AXES = ("thing", "colour", "word", "pattern")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Pictures (indices into a pool), questions about them, what they point at, labels as indices and axes.

    `wanted` (questions, 2, len(TARGETS)) holds two descriptions of a question in the numbers of a pool's places; 0 is
    left open.
    """

    pictures: list[int]
    questions: Questions
    wanted: Tensor
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
        return self._batch(chosen, captions, with_premise=with_premise, easy=easy)

    def fixed(self, pictures: int, captions: int, *, with_premise: bool = False) -> Batch:
        """Return a batch about the pool's first pictures."""
        return self._batch(list(range(pictures)), captions, with_premise=with_premise)

    def _batch(self, pictures: list[int], captions: int, *, with_premise: bool, easy: bool = False) -> Batch:
        rng = self._rng
        rows, picture, labels, asked, wanted = [], [], [], [], []
        for index, number in enumerate(pictures):
            scene = self._pool.scene(number)
            for _ in range(captions):
                label = rng.choices(LABELS, EASY_LABELS if easy else None)[0]
                example = sample_example(
                    scene, rng, self._wordings, label=label, axes=EASY_AXES if easy else AXES, extras=not easy
                )
                premise = sample_example(scene, rng, self._wordings, label="yes").caption if with_premise else None
                rows.append(self._reader.ids(prompt(example.caption, premise)))
                picture.append(index)
                labels.append(LABELS.index(label))
                asked.append(example.axis)
                wanted.append(_wanted(example.claim))
        return Batch(
            pictures=pictures,
            questions=Questions(ids=pad(rows), picture=torch.tensor(picture)),
            wanted=torch.tensor(wanted),
            labels=torch.tensor(labels),
            axes=asked,
        )


def _wanted(claim: Claim) -> list[list[int]]:
    """Return what a claim speaks of, and the same as the claim would have it or the other thing it names."""
    match claim:
        case Says():
            word = [0, 0, 0, 0, WORDS.index(claim.word) + 1]
            return [word, word]
        case Is():
            return [_numbers(claim.what), _numbers(claim.what.but(claim.attribute, claim.value))]
        case Stands():
            return [_numbers(claim.what), _numbers(claim.other)]
        case _:
            return [_numbers(claim.what)] * 2


def _numbers(what: Description) -> list[int]:
    values = (what.kind, what.colour, what.size, what.pattern)
    return [names.index(value) + 1 if value else 0 for names, value in zip(TARGETS, values, strict=False)] + [0]
