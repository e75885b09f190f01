"""Recording outcomes: once, with the lease's token, in one transaction with the chunk's new state."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, delete, select, update

from audit.verdict import Outcome, Verdict
from db.codec import escape
from db.death import recount
from db.engine import Database, db_now
from db.lease import Claim, no_holder
from db.outcome_rows import REMEMBERED, insert_judgements, insert_outcomes
from db.retry import afresh, asked_again, make_room
from db.tables import ChunkState, chunks, retries, suspects


class Recorded(StrEnum):
    """What became of a record."""

    KEPT = "kept"  # committed; pairs of the chunk are still without an outcome, and the claim goes on
    DONE = "done"  # committed, and the chunk is finished
    CANCELLED = "cancelled"  # the batch was cancelled meanwhile: what is judged is kept, nothing more is asked for
    FENCED = "fenced"  # the chunk was taken over, or cancelled long ago: nothing was written, and nothing is to be


def record(database: Database, claim: Claim, results: Sequence[Outcome]) -> Recorded:
    """Write outcomes and renew the lease; the chunk is done when its last pair has one.

    Idempotent: writing the same outcomes again with the same token changes nothing, so a COMMIT whose answer was lost
    may simply be repeated. Raises LedgerUnavailable.
    """
    return database.transact(lambda connection: _record(connection, claim, results))


def _record(connection: Connection, claim: Claim, results: Sequence[Outcome]) -> Recorded:
    this = (chunks.c.batch == claim.batch, chunks.c.number == claim.chunk)
    left_s = (chunks.c.lease_until - db_now()).label("left_s")
    found = connection.execute(select(chunks, left_s).where(*this).with_for_update()).mappings().first()
    if found is None:
        return Recorded.FENCED
    chunk = dict(found)
    if not _may_write(chunk, claim):
        connection.execute(update(chunks).where(*this).values(fenced=chunks.c.fenced + 1))
        return Recorded.FENCED
    if chunk["state"] == ChunkState.DONE:
        return Recorded.DONE  # our own earlier commit, whose answer was lost
    if results:
        _write(connection, claim, results)
    judged = recount(connection, chunk)
    if chunk["state"] == ChunkState.CANCELLED:
        return Recorded.CANCELLED
    return _finish(connection, claim, chunk) if judged >= chunk["pairs"] else _go_on(connection, claim)


def _finish(connection: Connection, claim: Claim, chunk: Mapping[str, Any]) -> Recorded:
    """Every pair has an outcome: the chunk is done, unless some of them are failures that are being retried."""
    again = asked_again(connection, claim.batch, retries.c.row.between(chunk["first_row"], chunk["last_row"]))
    if not again.isdisjoint(claim.retried):
        return _go_on(connection, claim)
    # The token stays: it is how a repeated record recognises its own work.
    done = {**no_holder(), "token": claim.token, "state": ChunkState.DONE, "done_at": db_now()}
    values = afresh() if again else done  # afresh: a retry was asked for while this claim was at work
    this = (chunks.c.batch == claim.batch, chunks.c.number == claim.chunk)
    connection.execute(update(chunks).where(*this).values(**values))
    return Recorded.DONE


def _go_on(connection: Connection, claim: Claim) -> Recorded:
    this = (chunks.c.batch == claim.batch, chunks.c.number == claim.chunk)
    kept = {"lease_until": db_now() + claim.claimant.lease_s, "marker_row": None, "marker_stage": None}
    connection.execute(update(chunks).where(*this).values(**kept))
    return Recorded.KEPT


def _may_write(chunk: Mapping[str, Any], claim: Claim) -> bool:
    if chunk["token"] != claim.token:
        return False
    if chunk["state"] == ChunkState.CANCELLED:
        # Cancelling keeps what is judged, also what was not yet recorded; but nobody comes hours later.
        return chunk["left_s"] is not None and chunk["left_s"] > 0
    return chunk["state"] in (ChunkState.RUNNING, ChunkState.DONE)


def _write(connection: Connection, claim: Claim, results: Sequence[Outcome]) -> None:
    rows = [own_values(claim, outcome) for outcome in results]
    if claim.retried:
        make_room(connection, claim.batch, [outcome.row for outcome in results if outcome.row in claim.retried])
    insert_outcomes(connection, shared_values(claim), rows)
    if claim.suspects:
        judged = [outcome.row for outcome in results if outcome.row in claim.suspects]
        connection.execute(delete(suspects).where(suspects.c.batch == claim.batch, suspects.c.row.in_(judged)))
    fresh = {row["content_key"]: row for row in rows if row["content_key"] and not row["cached"]}
    insert_judgements(connection, [{name: row[name] for name in REMEMBERED} for row in fresh.values()])


def shared_values(claim: Claim) -> Mapping[str, Any]:
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
    }


def own_values(claim: Claim, outcome: Outcome) -> Mapping[str, Any]:
    """Columns of `outcomes` that are this one's own; the same ones, in the same order, for every outcome."""
    return {
        "row": outcome.row,
        **_result(claim, outcome),
        "flags": " ".join(outcome.flags),
        "image_sha256": outcome.image_sha256,
        "cached": outcome.cached,
        "decode_ms": outcome.stage_ms.get("decode"),
        "model_ms": outcome.stage_ms.get("model"),
    }


def _result(claim: Claim, outcome: Outcome) -> Mapping[str, Any]:
    empty = dict.fromkeys(
        ("label", "p_yes", "p_no", "p_maybe", "failure_code", "failure_detail", "content_key", "flagged")
    )
    result = outcome.result
    if isinstance(result, Verdict):
        scores = result.scores
        return {
            **empty,
            "label": result.label.value,
            "p_yes": scores.p_yes,
            "p_no": scores.p_no,
            "p_maybe": scores.p_maybe,
            "flagged": claim.policy.flags(result),
            "content_key": outcome.content_key,
        }
    return {**empty, "flagged": False, "failure_code": result.code, "failure_detail": escape(result.detail)}
