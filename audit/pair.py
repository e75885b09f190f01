"""Pairs, batches and chunks: what is judged, and how it is addressed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NewType

BatchId = NewType("BatchId", int)
ChunkNumber = NewType("ChunkNumber", int)
Row = NewType("Row", int)
"""Position of a pair in its manifest, from 0; with the batch it is the pair's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One picture reference with the caption to check against it.

    `id` is the user's own and a string always (`1`, `01` and `1.0` are three ids). `premise` is an optional text
    that the model reads beside the picture. `extra` holds the manifest's other columns, untouched.
    """

    row: Row
    id: str
    image: str
    caption: str
    premise: str | None = None
    extra: Mapping[str, str] | None = None
