"""Questions and tokens for training: from a caption to the ids that the model reads, as the engine will make them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer

from worker.engines.ofa_spec import ADDED_TOKENS, CAPTION_PROMPT, PREMISE_PROMPT
from worker.engines.ofa_text import BOS, EOS, clean

MAX_SOURCE = 80
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def prompt(caption: str, premise: str | None) -> str:
    """Return the whole question about a caption, with or without a premise."""
    said, _ = clean(caption, max_words=MAX_SOURCE)
    if premise is None:
        return CAPTION_PROMPT.format(said)
    return PREMISE_PROMPT.format(clean(premise, max_words=MAX_SOURCE)[0], said)


def train_vocabulary(texts: Iterable[str], folder: Path, *, size: int = 1024) -> None:
    """Learn a byte-level vocabulary and write vocab.json and merges.txt: any text at all can be read with it."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=size, min_frequency=1, special_tokens=SPECIAL_TOKENS)
    tokenizer.save_model(str(folder))


class Reader:
    """Turns questions into ids while there is no model folder yet; tests hold it against the engine's reader."""

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self._tokenizer = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
        self.vocabulary = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
        # OFA's words for places and pictures, which modelscope adds to every vocabulary, have rows of their own.
        self.rows = self.vocabulary + ADDED_TOKENS
        self.label_ids = self.word_ids(labels)

    def word_ids(self, words: Sequence[str]) -> list[int]:
        """Return the token of each word; raises ValueError if one is not a single token."""
        found = {word: self._tokenizer.encode(f" {word}").ids for word in words}
        split = {word: ids for word, ids in found.items() if len(ids) != 1}
        if split:
            raise ValueError(f"not a single token each: {split}")
        return [ids[0] for ids in found.values()]

    def ids(self, question: str) -> list[int]:
        """Return <s>, the question's tokens (80 at most), </s>."""
        return [BOS, *self._tokenizer.encode(question).ids[:MAX_SOURCE], EOS]
