"""The wire contract: what travels through Redis, and on which queue.

A message is a doorbell: `{batch, chunk}` and nothing else. The wire version is part of the queue's name, so that an
older worker never sees, and never drops, a newer message.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from audit.errors import Permanent
from audit.pair import BatchId, ChunkNumber

WIRE_VERSION = 1
TASK_NAME = "caption_audit.judge"
MAX_BATCH = 2**63 - 1
MAX_CHUNK = 2**31 - 1
"""The largest numbers that the ledger's columns hold."""


class Lane(StrEnum):
    """Which of the two queues a batch waits in; interactive goes first."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class Rank(IntEnum):
    """How soon a message is taken: a worker empties all queues of one rank, interactive before bulk, then the next.

    These are the priorities that Celery's way to Redis has. A worker that knows nothing of ranks takes them in the same
    order, and what it sends itself has the first.
    """

    SHARE = 0  # bulk's guaranteed share
    AHEAD = 3  # of the interactive lane, out of its turn
    INTERACTIVE = 6  # in its turn; and of the bulk lane, out of its turn
    BULK = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkMessage:
    """Somebody should look at this chunk."""

    batch: BatchId
    chunk: ChunkNumber


class BadMessage(Permanent):
    """The message is not one of ours; nothing is lost by dropping it, since the ledger sends again."""


def encode(message: ChunkMessage) -> dict[str, int]:
    """The keyword arguments of the task."""
    return {"batch": message.batch, "chunk": message.chunk}


def shown(message: ChunkMessage, *, pairs: int) -> str:
    """How a message reads in a list of tasks: it travels beside the message, for people, and is never parsed."""
    return f"batch {message.batch}, chunk {message.chunk}, {pairs} pair{'s' * (pairs != 1)}"


def decode(body: Mapping[str, object]) -> ChunkMessage:
    """Parse keyword arguments that anybody may have put into Redis; raises BadMessage naming the field."""
    unknown = sorted(set(body) - {"batch", "chunk"})
    if unknown:
        raise BadMessage("bad_message", f"unknown field {unknown[0][:40]!r}")
    return ChunkMessage(
        batch=BatchId(_whole_number(body, "batch", least=1, most=MAX_BATCH)),
        chunk=ChunkNumber(_whole_number(body, "chunk", least=0, most=MAX_CHUNK)),
    )


def queue_name(lane: Lane, model: str, *, wire_version: int = WIRE_VERSION) -> str:
    """The queue of one lane and model: a chunk rings only at workers that hold the model it was submitted for."""
    return f"audit.v{wire_version}.{lane}.{model_slug(model)}"


def rank_in(lane: Lane, *, ahead: bool) -> Rank:
    """The rank of a message that goes out of its turn, or in it."""
    if lane is Lane.INTERACTIVE:
        return Rank.AHEAD if ahead else Rank.INTERACTIVE
    return Rank.INTERACTIVE if ahead else Rank.BULK


def model_slug(model: str) -> str:
    """A short name for queues and logs: readable, and unique through 6 hex digits of the full name's sha256."""
    readable = re.sub(r"[^a-z0-9]+", "-", model.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-")[:32]
    return f"{readable or 'model'}-{hashlib.sha256(model.encode()).hexdigest()[:6]}"


def _whole_number(body: Mapping[str, object], field: str, *, least: int, most: int) -> int:
    value = body.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadMessage("bad_message", f"{field} is not a whole number from {least} to {most}")
    return value
