"""Claiming a chunk: nobody else alive may hold it."""

import uuid
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, bindparam, case, or_, select

from audit.message import WIRE_VERSION, ChunkMessage, Lane
from audit.pair import BatchId, ChunkNumber, Row
from audit.policy import Policy
from db.breakers import may_try
from db.codec import row_to_pair
from db.death import bury, death_of, holder_of, is_orphaned
from db.engine import Database, db_now
from db.lease import THIS_CHUNK, Claim, Claimant, no_holder
from db.tables import BatchState, ChunkState, batches, breakers, chunks, outcomes, pairs, retries, suspects
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
    PLACE_AWAY = "place_away"  # this host leaves the place of its pictures alone for a while: db/breakers.py
    ELSEWHERE = "elsewhere"  # what is left of it are pairs that died here: another slot is to judge them
    DONE = "done"
    CANCELLED = "cancelled"
    PARKED = "parked"


FINISHED = {
    ChunkState.DONE: Refusal.DONE,
    ChunkState.CANCELLED: Refusal.CANCELLED,
    ChunkState.PARKED: Refusal.PARKED,
}


# Made once: SQLAlchemy takes as long to put a statement together as the databases to answer it.
_LOCKED = (
    select(
        chunks,
        (db_now() - chunks.c.lease_until).label("expired_s"),
        (db_now() - chunks.c.sent_at).label("waited_s"),
        batches.c.state.label("batch_state"),
        *(batches.c[name] for name in ("model", "lane", "wire_version", "policy", "image_root", "traceparent")),
        breakers.c.failures.label("place_failures"),
        breakers.c.opened_at.label("place_opened_at"),
        (breakers.c.open_until - db_now()).label("place_open_s"),
    )
    .join(batches, batches.c.id == chunks.c.batch)
    .outerjoin(breakers, and_(breakers.c.host == bindparam("host"), breakers.c.place == batches.c.image_root))
    .where(chunks.c.batch == bindparam("batch"), chunks.c.number == bindparam("number"))
    .with_for_update(of=chunks, skip_locked=True)
)
_DIED_HERE = and_(suspects.c.slot == bindparam("slot"), db_now() - suspects.c.died_at < bindparam("elsewhere_s"))
_WAITING = (
    select(
        *(pairs.c[name] for name in ("row", "id", "image", "caption", "premise", "extra", "raw")),
        retries.c.row.is_not(None).label("retried"),
        suspects.c.row.is_not(None).label("suspected"),
        case((_DIED_HERE, 1), else_=0).label("died_here"),
    )
    .outerjoin(outcomes, and_(outcomes.c.batch == pairs.c.batch, outcomes.c.row == pairs.c.row))
    .outerjoin(retries, and_(retries.c.batch == pairs.c.batch, retries.c.row == pairs.c.row))
    .outerjoin(suspects, and_(suspects.c.batch == pairs.c.batch, suspects.c.row == pairs.c.row))
    .where(pairs.c.batch == bindparam("batch"), pairs.c.row.between(bindparam("first"), bindparam("last")))
    .where(or_(outcomes.c.row.is_(None), retries.c.row.is_not(None)))
    .order_by(pairs.c.row)
)
_HOLD = THIS_CHUNK.values(
    attempts=chunks.c.attempts + 1, claimed_at=db_now(), lease_until=db_now() + bindparam("lease_s")
)


def claim(database: Database, message: ChunkMessage, claimant: Claimant) -> Claim | Refusal:
    """Take the chunk in one transaction, burying a dead holder first. Raises LedgerUnavailable."""
    return database.transact(lambda connection: _claim(connection, message, claimant))


def locked_chunk(
    connection: Connection, batch: BatchId, number: ChunkNumber, *, host: str = ""
) -> Mapping[str, Any] | None:
    """The chunk's row, locked, with `expired_s` since its lease's end, and what of its batch a claim needs.

    With how the place of its pictures is for `host`. None if it is gone or another has the lock.
    """
    chunk = connection.execute(_LOCKED, {"batch": batch, "number": number, "host": host}).mappings().first()
    return None if chunk is None else dict(chunk)


def _claim(connection: Connection, message: ChunkMessage, claimant: Claimant) -> Claim | Refusal:
    chunk = locked_chunk(connection, message.batch, message.chunk, host=claimant.holder.host)
    if chunk is None:
        batch = select(batches, batches.c.state.label("batch_state")).where(batches.c.id == message.batch)
        return _refused_batch(connection.execute(batch).mappings().first(), claimant) or Refusal.HELD
    refusal = _refused_batch(chunk, claimant) or FINISHED.get(chunk["state"])
    if refusal is not None:
        return refusal
    if chunk["state"] == ChunkState.RUNNING:
        return _take_over(connection, chunk, claimant)
    return _take(connection, chunk, claimant)


def _take_over(connection: Connection, chunk: Mapping[str, Any], claimant: Claimant) -> Claim | Refusal:
    """A running chunk, when its holder is dead and so is whoever would say how; a lease's end is for sweep to judge.

    A process works on one chunk at a time: one that it holds already is its own claim, whose COMMIT's answer was lost.
    """
    holder = holder_of(chunk)
    if holder == claimant.holder:
        return _take(connection, chunk, claimant, mine=True)
    if not is_orphaned(chunk):
        return Refusal.HELD
    if bury(connection, chunk, death_of(chunk), max_deaths=claimant.max_deaths).state is ChunkState.PARKED:
        return Refusal.PARKED
    fresh = locked_chunk(connection, chunk["batch"], chunk["number"], host=claimant.holder.host)
    return _take(connection, fresh, claimant) if fresh else Refusal.HELD


def _refused_batch(batch: RowMapping | Mapping[str, Any] | None, claimant: Claimant) -> Refusal | None:
    if batch is None:
        return Refusal.UNKNOWN
    if batch["model"] != claimant.provenance.model:
        return Refusal.OTHER_MODEL
    if batch["wire_version"] != WIRE_VERSION:
        return Refusal.OTHER_VERSION
    if batch["batch_state"] != BatchState.OPEN:
        return Refusal.CANCELLED if batch["batch_state"] == BatchState.CANCELLED else Refusal.NOT_OPEN
    return None


def _take(
    connection: Connection, chunk: Mapping[str, Any], claimant: Claimant, *, mine: bool = False
) -> Claim | Refusal:
    this = {"its_batch": chunk["batch"], "its_number": chunk["number"]}
    waits_again = {**this, "state": ChunkState.PENDING, "sent_at": None, **no_holder()}
    # A claim of its own may be the very one that tries the place.
    if not mine and not may_try(connection, chunk, claimant.holder.host, lease_s=claimant.lease_s):
        connection.execute(THIS_CHUNK, waits_again)
        return Refusal.PLACE_AWAY
    key = {"batch": chunk["batch"], "first": chunk["first_row"], "last": chunk["last_row"]}
    here = {"slot": claimant.provenance.worker, "elsewhere_s": ELSEWHERE_S}
    waiting = connection.execute(_WAITING, {**key, **here}).mappings().all()
    if not waiting:  # every pair of it was named while dead holders were buried
        connection.execute(THIS_CHUNK.values(done_at=db_now()), {**this, "state": ChunkState.DONE})
        return Refusal.DONE
    left_out = _rows(waiting, "died_here")
    if left_out and not another_slot(connection, chunk["model"], claimant.provenance.worker):
        left_out = frozenset()
    if len(left_out) == len(waiting):
        connection.execute(THIS_CHUNK, waits_again)
        return Refusal.ELSEWHERE
    token = uuid.uuid4().hex
    connection.execute(_HOLD, {**this, **_held(claimant, token)})
    suspected = _rows(waiting, "suspected")
    return Claim(
        batch=BatchId(chunk["batch"]),
        chunk=ChunkNumber(chunk["number"]),
        token=token,
        attempt=chunk["attempts"] + 1,
        careful=chunk["deaths"] > 0 or bool(suspected),
        image_root=chunk["image_root"],
        policy=Policy.from_json(chunk["policy"]),
        pairs=tuple(row_to_pair(row) for row in waiting if row["row"] not in left_out),
        suspects=suspected,
        retried=_rows(waiting, "retried"),
        left_out=left_out,
        place_failed=chunk["place_failures"] is not None,
        claimant=claimant,
        traceparent=chunk["traceparent"],
        lane=Lane(chunk["lane"]),
        # Of a chunk that somebody else has had in hand, the time since its message says nothing.
        waited_s=max(0.0, chunk["waited_s"]) if chunk["state"] == ChunkState.SENT else None,
    )


def _rows(waiting: Sequence[RowMapping], condition: str) -> frozenset[Row]:
    return frozenset(Row(row["row"]) for row in waiting if row[condition])


def _held(claimant: Claimant, token: str) -> Mapping[str, Any]:
    """Parameters of _HOLD."""
    holder, keeper = claimant.holder, claimant.keeper
    return {
        "state": ChunkState.RUNNING,
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
        "lease_s": claimant.lease_s,
    }
