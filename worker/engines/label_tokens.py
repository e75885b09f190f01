"""Byte-pair encoding of the three labels, in plain Python: the parent process may not import torch or transformers."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from audit.errors import ModelRefused

MAX_MERGES_BYTES = 20_000_000


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The merges in order of rank, as transformers' BART tokenizer reads them: without the first and the last line."""
    if path.stat().st_size > MAX_MERGES_BYTES:
        raise ModelRefused("model_config", f"{path}: more than the {MAX_MERGES_BYTES} bytes that it may have")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[1:-1]
    except UnicodeDecodeError as error:
        raise ModelRefused("model_config", f"{path}: not UTF-8") from error
    merges = [tuple(line.split()) for line in lines]
    for number, merge in enumerate(merges, start=2):
        if len(merge) != 2:
            raise ModelRefused("model_config", f"{path}: line {number} is not a pair of tokens")
    return [(left, right) for left, right in merges]


def single_token(directory: Path, answer: str, vocabulary: Mapping[str, Any]) -> int:
    """The id of a label's only token; raises ModelRefused when the vocabulary cuts the label into several.

    The engine reads one position of the decoder, so a label of two tokens would be scored by its first alone.
    """
    tokens = _encode(answer, read_merges(directory / "merges.txt"))
    number = vocabulary.get(tokens[0])
    if len(tokens) != 1 or not isinstance(number, int):
        shown = " + ".join(tokens)
        raise ModelRefused(
            "model_labels", f"{directory / 'vocab.json'}: the label {answer!r} is no single token ({shown})"
        )
    return number


def _encode(answer: str, merges: Sequence[tuple[str, str]]) -> list[str]:
    """The tokens of " answer"; byte-level BPE writes the leading space as U+0120 and ASCII letters as they are."""
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    parts = ["\u0120", *answer]
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        where = pairs.index(best)
        parts[where : where + 2] = ["".join(best)]
    return parts
