"""Doorbells: the messages that the feed sends, and which batches it sends them for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam

from audit.message import WIRE_VERSION, Lane, Rank, rank_in
from audit.pair import BatchId, ChunkNumber
from db.tables import BatchState, batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Doorbell:
    """A message to be sent: this chunk, on this lane, to workers that hold this model.

    `pairs` and `again` (an earlier one was lost) are for people.
    """

    batch: BatchId
    chunk: ChunkNumber
    pairs: int
    lane: Lane
    model: str
    rank: Rank
    again: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How much of a lane may wait in Redis: so many chunks in turn, and one a slot for each reason to go ahead."""

    chunks: int
    slots: int


FED: ColumnElement[bool] = and_(
    batches.c.state == BatchState.OPEN,
    batches.c.model == bindparam("model"),
    batches.c.wire_version == WIRE_VERSION,
)
"""True for batches that this code may feed: open, of the parameter `model`, and of its own wire version.

The chunk of a newer batch would go to the queue of an older version, where nobody is able to judge it. The feed's
statements are made once: SQLAlchemy takes as long to put one together as the databases to answer it, and a worker asks
most of them every second.
"""


def doorbell(row: Mapping[str, Any], model: str, rank: int | None) -> Doorbell:
    """From columns `batch`, `number`, `pairs` and `lane`; without a rank it goes in turn, as older code sent it."""
    lane = Lane(row["lane"])
    return Doorbell(
        batch=BatchId(row["batch"]),
        chunk=ChunkNumber(row["number"]),
        pairs=int(row["pairs"]),
        lane=lane,
        model=model,
        rank=rank_in(lane, ahead=False) if rank is None else Rank(rank),
    )
