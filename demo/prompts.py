"""Prompts and tokens: from a caption to the ids that the model reads, exactly as modelscope makes them."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer

CAPTION_PROMPT = ' does the image describe " {} "?'
PREMISE_PROMPT = ' can image and text1 " {} " imply text2 " {} "?'
MAX_SOURCE = 80
BOS, PAD, EOS = 0, 1, 2
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
# OFA's words for places and pictures in its output; modelscope adds them to every tokenizer when it loads one.
ADDED_TOKENS = 8192 + 1000


def clean(text: str) -> str:
    """Return a caption as OfaBasePreprocessor.pre_caption does (modelscope/preprocessors/ofa/base.py)."""
    text = text.lower().lstrip(",.!?*#:;~").replace("-", " ").replace("/", " ").replace("<person>", "person")
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:MAX_SOURCE])


def prompt(caption: str, premise: str | None) -> str:
    """Return the whole question about a caption, with or without a premise."""
    if premise is None:
        return CAPTION_PROMPT.format(clean(caption))
    return PREMISE_PROMPT.format(clean(premise), clean(caption))


def train_vocabulary(texts: Iterable[str], folder: Path, *, size: int = 1024) -> None:
    """Learn a byte-level vocabulary and write vocab.json and merges.txt: any text at all can be read with it."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=size, min_frequency=1, special_tokens=SPECIAL_TOKENS)
    tokenizer.save_model(str(folder))


class Reader:
    """Turns questions into ids. A fast stand-in for OFATokenizer, equal to it on the texts of the drawn world."""

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self._tokenizer = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
        self.vocabulary = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
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
