"""Batches of questions about pooled pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from demo.captions import LABELS, Wordings, sample_example
from demo.claims import AXES
from demo.network import Questions, pad
from demo.pool import Pool
from demo.prompts import Reader, prompt

# One batch in twelve asks with a premise: a true caption of the same picture, which settles nothing by itself.
PREMISE_SHARE = 1 / 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Pictures (indices into a pool), questions about them, the labels as indices and the axes."""

    pictures: list[int]
    questions: Questions
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
                Batch(pictures=self.pictures[start:stop], questions=questions, labels=self.labels[chosen], axes=axes)
            )
        return parts


class Examples:
    """Samples batches: every picture gets several captions, a third of them of each label."""

    def __init__(self, pool: Pool, reader: Reader, wordings: Wordings, rng: Random) -> None:
        self._pool = pool
        self._reader = reader
        self._wordings = wordings
        self._rng = rng

    def sample(self, pictures: int, captions: int, *, axes: Sequence[str] | None = None) -> Batch:
        """Return a batch about pictures by lot."""
        chosen = sorted(self._rng.sample(range(len(self._pool.pictures)), pictures))
        return self._batch(chosen, captions, axes or AXES, with_premise=self._rng.random() < PREMISE_SHARE)

    def fixed(self, pictures: int, captions: int, *, with_premise: bool = False) -> Batch:
        """Return a batch about the pool's first pictures."""
        return self._batch(list(range(pictures)), captions, AXES, with_premise=with_premise)

    def _batch(self, pictures: list[int], captions: int, axes: Sequence[str], *, with_premise: bool) -> Batch:
        rng, rows, picture, labels, asked = self._rng, [], [], [], []
        for index, number in enumerate(pictures):
            scene = self._pool.scene(number)
            for _ in range(captions):
                label = rng.randrange(len(LABELS))
                example = sample_example(scene, rng, self._wordings, label=LABELS[label], axes=axes)
                premise = sample_example(scene, rng, self._wordings, label="yes").caption if with_premise else None
                rows.append(self._reader.ids(prompt(example.caption, premise)))
                picture.append(index)
                labels.append(label)
                asked.append(example.axis)
        questions = Questions(ids=pad(rows), picture=torch.tensor(picture))
        return Batch(pictures=pictures, questions=questions, labels=torch.tensor(labels), axes=asked)
