"""Asking the demo model: pictures and captions in, labels out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image

from demo.captions import LABELS
from demo.network import normalise
from demo.ofa_modules import OFAModel
from demo.pool import squash
from demo.prompts import Reader, prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question to a model."""

    picture: Image.Image
    caption: str
    premise: str | None = None


class Judge(Protocol):
    """Answers questions in their order, each with one of LABELS."""

    def __call__(self, questions: Sequence[Asked]) -> list[str]:
        """Return one label a question."""
        ...


class FolderJudge:
    """Answers with the model of a folder: one pass a question, the labels' logits at the prompt's last token."""

    def __init__(self, folder: Path) -> None:
        self._reader = Reader(folder, LABELS)
        self._model = OFAModel.from_pretrained(str(folder)).eval()
        self._model.decoder.output_projection.weight = self._model.encoder.embed_tokens.weight

    @torch.inference_mode()
    def __call__(self, questions: Sequence[Asked]) -> list[str]:
        """Return one label a question."""
        return [self._answer(question) for question in questions]

    def _answer(self, question: Asked) -> str:
        ids = torch.tensor([self._reader.ids(prompt(question.caption, question.premise))])
        answer = self._model(
            input_ids=ids,
            patch_images=normalise(squash(question.picture)[None]),
            patch_masks=torch.tensor([True]),
            decoder_input_ids=ids[:, :-1],
        )
        return LABELS[int(answer.logits[0, -1, self._reader.label_ids].argmax())]
