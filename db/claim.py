"""Claiming a chunk: nobody else alive may hold it."""

import uuid
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, and_, case, or_, select, update

from audit.message import WIRE_VERSION, ChunkMessage
from audit.pair import BatchId, ChunkNumber, Pair, Row
from audit.policy import Policy
from db.codec import row_to_pair
from db.death import bury, death_of, holder_of, is_orphaned
from db.engine import Database, db_now
from db.lease import Claim, Claimant, no_holder
from db.tables import BatchState, ChunkState, batches, chunks, outcomes, pairs, retries, suspects
from db.workers import another_slot

ELSEWHERE_S = 20.0
"""For so long after a suspect's death its slot leaves it to others, if there are any: a sick slot names nobody."""


class Refusal(StrEnum):
    """Why a chunk cannot be claimed; none of these is an error, and none loses anything."""

    UNKNOWN = "unknown"
    OTHER_MODEL = "other_model"
    OTHER_VERSION = "other_version"
    NOT_OPEN = "not_open"
    HELD = "held"
    ELSEWHERE = "elsewhere"  # what is left of it are pairs that died here: another slot is to judge them
    DONE = "done"
    CANCELLED = "cancelled"
    PARKED = "parked"


FINISHED = {
    ChunkState.DONE: Refusal.DONE,
    ChunkState.CANCELLED: Refusal.CANCELLED,
    ChunkState.PARKED: Refusal.PARKED,
}


def claim(database: Database, message: ChunkMessage, claimant: Claimant) -> Claim | Refusal:
    """Take the chunk in one transaction, burying a dead holder first. Raises LedgerUnavailable."""
    return database.transact(lambda connection: _claim(connection, message, claimant))


def locked_chunk(connection: Connection, batch: BatchId, number: ChunkNumber) -> Mapping[str, Any] | None:
    """The chunk's row, locked, with `expired_s` since its lease's end; None if it is gone or another has the lock."""
    found = connection.execute(
        select(chunks, (db_now() - chunks.c.lease_until).label("expired_s"))
        .where(chunks.c.batch == batch, chunks.c.number == number)
        .with_for_update(skip_locked=True)
    )
    chunk = found.mappings().first()
    return None if chunk is None else dict(chunk)


def _claim(connection: Connection, message: ChunkMessage, claimant: Claimant) -> Claim | Refusal:
    found = connection.execute(select(batches).where(batches.c.id == message.batch)).mappings().first()
    batch = None if found is None else dict(found)
    refusal = _refused_batch(batch, claimant)
    if refusal is not None or batch is None:
        return refusal or Refusal.UNKNOWN
    chunk = locked_chunk(connection, message.batch, message.chunk)
    if chunk is None:
        return Refusal.HELD
    state = ChunkState(chunk["state"])
    if state in FINISHED:
        return FINISHED[state]
    if state is ChunkState.RUNNING:
        return _take_over(connection, batch, chunk, claimant)
    return _take(connection, batch, chunk, claimant)


def _take_over(
    connection: Connection, batch: Mapping[str, Any], chunk: Mapping[str, Any], claimant: Claimant
) -> Claim | Refusal:
    """A running chunk, when its holder is dead and so is whoever would say how; a lease's end is for sweep to judge.

    A process works on one chunk at a time: one that it holds already is its own claim, whose COMMIT's answer was lost.
    """
    holder = holder_of(chunk)
    if holder == claimant.holder:
        return _take(connection, batch, chunk, claimant)
    if not is_orphaned(chunk):
        return Refusal.HELD
    if bury(connection, chunk, death_of(chunk), max_deaths=claimant.max_deaths) is ChunkState.PARKED:
        return Refusal.PARKED
    fresh = locked_chunk(connection, batch["id"], chunk["number"])
    return _take(connection, batch, fresh, claimant) if fresh else Refusal.HELD


def _refused_batch(batch: Mapping[str, Any] | None, claimant: Claimant) -> Refusal | None:
    if batch is None:
        return Refusal.UNKNOWN
    if batch["model"] != claimant.provenance.model:
        return Refusal.OTHER_MODEL
    if batch["wire_version"] != WIRE_VERSION:
        return Refusal.OTHER_VERSION
    if batch["state"] != BatchState.OPEN:
        return Refusal.CANCELLED if batch["state"] == BatchState.CANCELLED else Refusal.NOT_OPEN
    return None


def _take(
    connection: Connection, batch: Mapping[str, Any], chunk: Mapping[str, Any], claimant: Claimant
) -> Claim | Refusal:
    rows = (chunk["first_row"], chunk["last_row"])
    waiting, retried = _waiting(connection, batch["id"], rows)
    suspected, left_out = _suspected(connection, batch, rows, claimant)
    mine = tuple(pair for pair in waiting if pair.row not in left_out)
    this = update(chunks).where(chunks.c.batch == batch["id"], chunks.c.number == chunk["number"])
    if not waiting:  # every pair of it was named while dead holders were buried
        connection.execute(this.values(state=ChunkState.DONE, done_at=db_now()))
        return Refusal.DONE
    if not mine:
        connection.execute(this.values(state=ChunkState.PENDING, sent_at=None, **no_holder()))
        return Refusal.ELSEWHERE
    token = uuid.uuid4().hex
    connection.execute(this.values(_held(claimant, token)))
    return Claim(
        batch=BatchId(batch["id"]),
        chunk=ChunkNumber(chunk["number"]),
        token=token,
        attempt=chunk["attempts"] + 1,
        careful=chunk["deaths"] > 0 or bool(suspected),
        image_root=batch["image_root"],
        policy=Policy.from_json(batch["policy"]),
        pairs=mine,
        suspects=suspected,
        retried=retried,
        left_out=left_out,
        claimant=claimant,
    )


def _held(claimant: Claimant, token: str) -> Mapping[str, Any]:
    holder, keeper = claimant.holder, claimant.keeper
    return {
        "state": ChunkState.RUNNING,
        "attempts": chunks.c.attempts + 1,
        "token": token,
        "sends": 0,
        "marker_row": None,
        "marker_stage": None,
        "provenance": claimant.provenance.to_json(),
        "holder_host": holder.host,
        "holder_boot": holder.boot,
        "holder_pid": holder.pid,
        "holder_started": holder.started,
        "keeper_pid": keeper.pid if keeper else None,
        "keeper_started": keeper.started if keeper else None,
        "claimed_at": db_now(),
        "lease_until": db_now() + claimant.lease_s,
    }


def _suspected(
    connection: Connection, batch: Mapping[str, Any], rows: tuple[int, int], claimant: Claimant
) -> tuple[frozenset[Row], frozenset[Row]]:
    """Rows of suspects; and those of them that died here a moment ago, while another slot could judge them."""
    recent = (db_now() - suspects.c.died_at) < ELSEWHERE_S
    here = and_(suspects.c.slot == claimant.provenance.worker, recent)
    found = connection.execute(
        select(suspects.c.row, case((here, 1), else_=0).label("here")).where(
            suspects.c.batch == batch["id"], suspects.c.row.between(*rows)
        )
    ).all()
    died_here = frozenset(Row(row.row) for row in found if row.here)
    if died_here and not another_slot(connection, batch["model"], claimant.provenance.worker):
        died_here = frozenset()
    return frozenset(Row(row.row) for row in found), died_here


def _waiting(connection: Connection, batch: BatchId, rows: tuple[int, int]) -> tuple[list[Pair], frozenset[Row]]:
    """Pairs that want an outcome, in row order; and the rows of those whose failure it is to replace."""
    judged = and_(outcomes.c.batch == pairs.c.batch, outcomes.c.row == pairs.c.row)
    again = and_(retries.c.batch == pairs.c.batch, retries.c.row == pairs.c.row)
    found = connection.execute(
        select(pairs, retries.c.row.label("again"))
        .outerjoin(outcomes, judged)
        .outerjoin(retries, again)
        .where(pairs.c.batch == batch, pairs.c.row.between(*rows))
        .where(or_(outcomes.c.row.is_(None), retries.c.row.is_not(None)))
        .order_by(pairs.c.row)
    )
    waiting = [dict(row) for row in found.mappings()]
    return [row_to_pair(row) for row in waiting], frozenset(
        Row(row["row"]) for row in waiting if row["again"] is not None
    )
