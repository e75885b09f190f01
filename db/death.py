"""What a death means: who is blamed when the holder of a chunk dies or hangs.

A death with a committed marker makes a suspect of that pair, which is judged last and alone; its second death there
names it. A death without a marker (loading, claiming, recording, a pair of a full-speed run) blames no pair.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from audit.holder import Holder, proved_dead, this_process
from audit.verdict import Failure, Label
from db.engine import db_now
from db.lease import Provenance, no_holder
from db.retry import make_room
from db.tables import ChunkState, chunks, outcomes, suspects

DEATHS_TO_NAME = 2
OTHER_HOSTS_WAIT_S = 5.0
"""The holder's own host can tell a hang from a death; others take over so much later."""


class Cause(StrEnum):
    """How the holder ended."""

    DIED = "died"
    STUCK = "stuck"


def holder_of(chunk: Mapping[str, Any]) -> Holder:
    """The process that a running chunk names."""
    return Holder(
        host=chunk["holder_host"], boot=chunk["holder_boot"], pid=chunk["holder_pid"], started=chunk["holder_started"]
    )


def is_expired(chunk: Mapping[str, Any]) -> bool:
    """Whether the lease ended `expired_s` ago, for long enough that its own host has had its turn."""
    here = _is_here(holder_of(chunk))
    return bool(chunk["expired_s"] > (0.0 if here else OTHER_HOSTS_WAIT_S))


def cause_of_death(chunk: Mapping[str, Any]) -> Cause:
    """Stuck if the process lives on this host without progress; died otherwise.

    A process of another host (or another boot of this one) cannot be examined: that its lease ended does not say that a
    pair took too long.
    """
    holder = holder_of(chunk)
    return Cause.STUCK if _is_here(holder) and not proved_dead(holder) else Cause.DIED


def _is_here(holder: Holder) -> bool:
    here = this_process()
    return (holder.host, holder.boot) == (here.host, here.boot)


def bury(connection: Connection, chunk: Mapping[str, Any], cause: Cause, *, max_deaths: int) -> ChunkState:
    """Take a running chunk from its dead or hanging holder; returns its new state, pending or parked."""
    state, deaths = ChunkState.PENDING, chunk["deaths"]
    if chunk["marker_row"] is None:
        deaths += 1
        state = ChunkState.PARKED if deaths >= max_deaths else ChunkState.PENDING
    else:
        _suspect(connection, chunk, cause)
    connection.execute(
        update(chunks)
        .where(chunks.c.batch == chunk["batch"], chunks.c.number == chunk["number"])
        .values(state=state, deaths=deaths, **no_holder())
    )
    return state


def _suspect(connection: Connection, chunk: Mapping[str, Any], cause: Cause) -> None:
    this = (suspects.c.batch == chunk["batch"], suspects.c.row == chunk["marker_row"])
    deaths = (connection.scalar(select(suspects.c.deaths).where(*this)) or 0) + 1
    connection.execute(delete(suspects).where(*this))
    if deaths < DEATHS_TO_NAME:
        key = {"batch": chunk["batch"], "row": chunk["marker_row"]}
        connection.execute(insert(suspects).values(deaths=deaths, **key))
        return
    failure = _failure(chunk["marker_stage"], cause)
    make_room(connection, chunk["batch"], [chunk["marker_row"]])
    connection.execute(insert(outcomes).values(_named(chunk, failure)))
    recount(connection, chunk)


def _failure(stage: str, cause: Cause) -> Failure:
    if cause is Cause.STUCK:
        return Failure(code="timed_out", detail=f"no progress at stage {stage}, twice, the second time alone")
    code = "decoder_crashed" if stage == "decode" else "worker_died"
    return Failure(code=code, detail=f"its process died at stage {stage}, twice, the second time alone")


def _named(chunk: Mapping[str, Any], failure: Failure) -> dict[str, Any]:
    provenance = Provenance.from_json(chunk["provenance"])
    return {
        "batch": chunk["batch"],
        "row": chunk["marker_row"],
        "failure_code": failure.code,
        "failure_detail": failure.detail,
        "flagged": False,
        "flags": "",
        "cached": False,
        "model": provenance.model,
        "model_revision": provenance.model_revision,
        "engine": provenance.engine,
        "precision": provenance.precision,
        "device": provenance.device,
        "worker": provenance.worker,
        "attempt": chunk["attempts"],
        "judged_at": db_now(),
    }


def recount(connection: Connection, chunk: Mapping[str, Any]) -> int:
    """Make the chunk's counts those of its outcomes, and return how many there are.

    Counting afresh is what makes recording idempotent: a commit whose answer was lost counts nothing twice.
    """
    column = outcomes.c
    counted = connection.execute(
        select(
            func.count().filter(column.label == Label.YES).label("yes"),
            func.count().filter(column.label == Label.NO).label("no"),
            func.count().filter(column.label == Label.MAYBE).label("maybe"),
            func.count().filter(column.label.is_(None)).label("failed"),
            func.count().filter(column.flagged).label("flagged"),
        ).where(column.batch == chunk["batch"], column.row.between(chunk["first_row"], chunk["last_row"]))
    )
    counts = dict(counted.mappings().one())
    connection.execute(
        update(chunks).where(chunks.c.batch == chunk["batch"], chunks.c.number == chunk["number"]).values(**counts)
    )
    return int(counts["yes"] + counts["no"] + counts["maybe"] + counts["failed"])
