"""Whose turn it is: the order in which pending chunks of a lane are sent, and which of them need not wait for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, exists, func, select

from audit.message import Lane, Rank, rank_in
from db.breakers import AWAY
from db.doorbell import FED, Doorbell, Window, doorbell
from db.tables import ChunkState, batches, chunks

_UNDER_WAY = (
    select(batches.c.tenant, chunks.c.state, chunks.c.rank, func.count().label("chunks"))
    .join(chunks, chunks.c.batch == batches.c.id)
    .where(chunks.c.state.in_((ChunkState.SENT, ChunkState.RUNNING)), FED, batches.c.lane == bindparam("lane"))
    .group_by(batches.c.tenant, chunks.c.state, chunks.c.rank)
)
_WITH_PENDING = (
    select(batches.c.id, batches.c.tenant, batches.c.priority, batches.c.lane)
    .where(FED, batches.c.lane == bindparam("lane"))
    .where(exists().where(chunks.c.batch == batches.c.id, chunks.c.state == ChunkState.PENDING), ~AWAY)
    .order_by(batches.c.priority.desc(), batches.c.id)
)
_FIRST_PENDING = (
    select(*(chunks.c[name] for name in ("number", "pairs", "yes", "no", "maybe", "failed", "attempts", "deaths")))
    .where(chunks.c.state == ChunkState.PENDING, chunks.c.batch == bindparam("batch"))
    .order_by(chunks.c.number)
    .limit(bindparam("most", type_=Integer()))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """What of a lane is sent or running: chunks by tenant, and messages that wait, by rank."""

    busy: Mapping[str, int]
    sent: Mapping[Rank, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A pending chunk; `pairs_left` have no outcome yet, and `ahead` says that it need not wait for its turn."""

    row: Mapping[str, Any]
    pairs_left: int
    ahead: bool


def under_way(connection: Connection, model: str, lane: Lane) -> UnderWay:
    """Count what is sent and what is running."""
    counted = connection.execute(_UNDER_WAY, {"model": model, "lane": lane})
    busy: dict[str, int] = {}
    sent = dict.fromkeys(Rank, 0)
    for row in counted:
        busy[row.tenant] = busy.get(row.tenant, 0) + row.chunks
        if row.state == ChunkState.SENT:
            sent[rank_in(lane, ahead=False) if row.rank is None else Rank(row.rank)] += row.chunks
    return UnderWay(busy=busy, sent=sent)


def line(connection: Connection, model: str, lane: Lane, way: UnderWay, window: Window) -> list[Candidate]:
    """Pending chunks by priority, tenants in turn (who has least under way goes first), older batches first.

    Of each tenant and priority as many as could be sent now, not all.
    """
    most = window.chunks + 2 * window.slots
    waiting = connection.execute(_WITH_PENDING, {"model": model, "lane": lane})
    found: list[tuple[tuple[int, int, int, int], Candidate]] = []
    taken: dict[tuple[int, str], int] = {}
    for batch in waiting.mappings():
        group = (batch["priority"], batch["tenant"])
        for chunk in _first_pending(connection, batch["id"], most - taken.get(group, 0)):
            taken[group] = taken.get(group, 0) + 1
            busy = way.busy.get(batch["tenant"], 0)
            order = (-batch["priority"], busy + taken[group], batch["id"], chunk["number"])
            found.append((order, _candidate({**batch, **chunk, "batch": batch["id"]}, way, taken[group])))
    return [candidate for _, candidate in sorted(found, key=lambda one: one[0])]


def in_turn(waiting: Sequence[Candidate], lane: Lane, way: UnderWay, window: Window, model: str) -> list[Doorbell]:
    """Fill the lane's window, and send those ahead that need not wait for it: at most one a slot."""
    ahead, usual = rank_in(lane, ahead=True), rank_in(lane, ahead=False)
    room = {ahead: window.slots - way.sent[ahead], usual: window.chunks - way.sent[usual]}
    chosen = []
    for candidate in waiting:
        rank = ahead if candidate.ahead and room[ahead] > 0 else usual
        if room[rank] > 0:
            room[rank] -= 1
            chosen.append(doorbell(candidate.row, model, rank))
    return chosen


def _candidate(row: Mapping[str, Any], way: UnderWay, place: int) -> Candidate:
    # A batch's end waits for what was tried before. And who has nothing under way beside others has its turn now: in
    # the window it would wait for all that the others have in it.
    has_nothing = place == 1 and bool(way.busy) and not way.busy.get(row["tenant"])
    left = row["pairs"] - row["yes"] - row["no"] - row["maybe"] - row["failed"]
    return Candidate(row=row, pairs_left=left, ahead=has_nothing or row["attempts"] + row["deaths"] > 0)


def _first_pending(connection: Connection, batch: int, most: int) -> list[Mapping[str, Any]]:
    """In the order of their numbers; what was sent before comes first by itself, since chunks are sent in order."""
    if most <= 0:
        return []
    found = connection.execute(_FIRST_PENDING, {"batch": batch, "most": most})
    return [dict(row) for row in found.mappings()]
