"""Recording outcomes: once, with the lease's token, in one transaction with the chunk's new state."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select

from audit.pair import Row
from audit.verdict import Failure, Outcome, Verdict
from db.codec import escape
from db.death import counted
from db.engine import Database, db_now
from db.lease import THIS_CHUNK, Claim, no_holder
from db.outcome_rows import insert_outcomes
from db.retry import afresh, asked_again, make_room
from db.tables import ChunkState, chunks, retries, suspects

_NEEDED = ("batch", "number", "first_row", "last_row", "pairs", "state", "token")
_LOCKED = (
    select(*(chunks.c[name] for name in _NEEDED), (chunks.c.lease_until - db_now()).label("left_s"))
    .where(chunks.c.batch == bindparam("its_batch"), chunks.c.number == bindparam("its_number"))
    .with_for_update()
)
_KEPT = THIS_CHUNK.values(lease_until=db_now() + bindparam("lease_s"))
_DONE = THIS_CHUNK.values(done_at=db_now())


class Recorded(StrEnum):
    """What became of a record."""

    KEPT = "kept"  # committed; pairs of the chunk are still without an outcome, and the claim goes on
    DONE = "done"  # committed, and the chunk is finished
    CANCELLED = "cancelled"  # the batch was cancelled meanwhile: what is judged is kept, nothing more is asked for
    FENCED = "fenced"  # the chunk was taken over, or cancelled long ago: nothing was written, and nothing is to be


def record(database: Database, claim: Claim, results: Sequence[Outcome], *, trace_id: str | None = None) -> Recorded:
    """Write outcomes and renew the lease; the chunk is done when its last pair has one. They carry the `trace_id`.

    Idempotent: writing the same outcomes again with the same token changes nothing, so a COMMIT whose answer was lost
    may simply be repeated. Raises LedgerUnavailable.
    """
    return database.transact(lambda connection: _record(connection, claim, results, trace_id))


def _record(connection: Connection, claim: Claim, results: Sequence[Outcome], trace_id: str | None) -> Recorded:
    this = {"its_batch": claim.batch, "its_number": claim.chunk}
    found = connection.execute(_LOCKED, this).mappings().first()
    if found is None:
        return Recorded.FENCED
    chunk = dict(found)
    if not _may_write(chunk, claim):
        connection.execute(THIS_CHUNK.values(fenced=chunks.c.fenced + 1), this)
        return Recorded.FENCED
    if chunk["state"] == ChunkState.DONE:
        return Recorded.DONE  # our own earlier commit, whose answer was lost
    if results:
        _write(connection, claim, results, trace_id)
    now = counted(connection, chunk)
    this |= now.counts
    if chunk["state"] == ChunkState.CANCELLED:
        connection.execute(THIS_CHUNK, this)
        return Recorded.CANCELLED
    complete = now.judged >= chunk["pairs"]
    again = _asked_again(connection, chunk) if complete and now.retried else frozenset()
    if not complete or not again.isdisjoint(claim.retried):
        kept = {"lease_s": claim.claimant.lease_s, "marker_row": None, "marker_stage": None}
        connection.execute(_KEPT, {**this, **kept})
        return Recorded.KEPT
    if again:  # a retry was asked for while this claim was at work
        connection.execute(THIS_CHUNK, {**this, **afresh()})
    else:
        # The token stays: it is how a repeated record recognises its own work.
        connection.execute(_DONE, {**this, **no_holder(), "token": claim.token, "state": ChunkState.DONE})
    return Recorded.DONE


def _asked_again(connection: Connection, chunk: Mapping[str, Any]) -> frozenset[Row]:
    """Failures of the chunk that a new outcome is to replace."""
    return asked_again(connection, chunk["batch"], retries.c.row.between(chunk["first_row"], chunk["last_row"]))


def _may_write(chunk: Mapping[str, Any], claim: Claim) -> bool:
    if chunk["token"] != claim.token:
        return False
    if chunk["state"] == ChunkState.CANCELLED:
        # Cancelling keeps what is judged, also what was not yet recorded; but nobody comes hours later.
        return chunk["left_s"] is not None and chunk["left_s"] > 0
    return chunk["state"] in (ChunkState.RUNNING, ChunkState.DONE)


def _write(connection: Connection, claim: Claim, results: Sequence[Outcome], trace_id: str | None) -> None:
    if claim.retried:
        make_room(connection, claim.batch, [outcome.row for outcome in results if outcome.row in claim.retried])
    insert_outcomes(connection, shared_values(claim, trace_id), [own_values(claim, outcome) for outcome in results])
    if claim.suspects:
        judged = [outcome.row for outcome in results if outcome.row in claim.suspects]
        connection.execute(delete(suspects).where(suspects.c.batch == claim.batch, suspects.c.row.in_(judged)))


def shared_values(claim: Claim, trace_id: str | None = None) -> Mapping[str, Any]:
    """Columns of `outcomes` that are the same in all that this claim records."""
    provenance = claim.claimant.provenance
    return {
        "batch": claim.batch,
        "model": provenance.model,
        "model_revision": provenance.model_revision,
        "engine": provenance.engine,
        "precision": provenance.precision,
        "device": provenance.device,
        "worker": provenance.worker,
        "attempt": claim.attempt,
        "trace_id": trace_id,
    }


def own_values(claim: Claim, outcome: Outcome) -> Mapping[str, Any]:
    """Columns of `outcomes` that are this one's own; the same ones, in the same order, for every outcome."""
    result = outcome.result
    scores = result.scores if isinstance(result, Verdict) else None
    failure = result if isinstance(result, Failure) else None
    return {
        "row": outcome.row,
        "label": scores.label.value if scores else None,
        "p_yes": scores.p_yes if scores else None,
        "p_no": scores.p_no if scores else None,
        "p_maybe": scores.p_maybe if scores else None,
        "failure_code": failure.code if failure else None,
        "failure_detail": escape(failure.detail) if failure else None,
        "content_key": outcome.content_key if scores else None,
        "flagged": isinstance(result, Verdict) and claim.policy.flags(result),
        "flags": " ".join(outcome.flags),
        "image_sha256": outcome.image_sha256,
        "cached": outcome.cached,
        "decode_ms": outcome.stage_ms.get("decode"),
        "model_ms": outcome.stage_ms.get("model"),
    }
