"""What a death means: who is blamed when the holder of a chunk dies or hangs.

A death with a committed marker makes a suspect of that pair, which is judged last and alone, on another slot if there
is one. Its second death there names it, if that was surely the process's own doing. A bare SIGKILL may come from
anybody: such a death names the pair that was in hand at the chunk's first bare SIGKILL, too, and any other pair at its
third. A death without a marker (loading, claiming, recording, a pair of a full-speed run) blames no pair.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, delete, func, insert, select, update

from audit.holder import Holder, proved_dead, this_process
from audit.verdict import Failure, Label
from db.engine import db_now
from db.lease import THIS_CHUNK, Provenance, no_holder
from db.retry import make_room
from db.tables import ChunkState, chunks, outcomes, retries, suspects

_FIRST, _LAST = bindparam("first", type_=BigInteger), bindparam("last", type_=BigInteger)
_COUNTED = select(
    func.count().filter(outcomes.c.label == Label.YES).label("yes"),
    func.count().filter(outcomes.c.label == Label.NO).label("no"),
    func.count().filter(outcomes.c.label == Label.MAYBE).label("maybe"),
    func.count().filter(outcomes.c.label.is_(None)).label("failed"),
    func.count().filter(outcomes.c.flagged).label("flagged"),
    select(func.count())
    .where(retries.c.batch == bindparam("batch"), retries.c.row.between(_FIRST, _LAST))
    .scalar_subquery()
    .label("retried"),
).where(outcomes.c.batch == bindparam("batch"), outcomes.c.row.between(_FIRST, _LAST))
DEATHS_TO_NAME = 2
DEATHS_TO_NAME_IN_DOUBT = 3
OTHERS_WAIT_S = 5.0
"""The main process of the holder's worker knows best how it ended; others take over so much later."""


class Cause(StrEnum):
    """How the holder ended."""

    DIED = "died"
    STUCK = "stuck"
    LET_GO = "let_go"  # it lost its ledger, and left: nobody's death
    STOPPED = "stopped"  # by a signal, from somebody who did not let it go on: no pair's doing, whatever was at hand


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """The end of a chunk's holder, as far as it is known.

    `certain`: its own doing, or that of a limit. `hand`: the rows that it had in hand at full speed, first and last.
    """

    cause: Cause
    certain: bool
    hand: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Burial:
    """What became of a dead holder's chunk: pending or parked; and the code of the failure if a pair was named."""

    state: ChunkState
    named: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A chunk's counts by the names of their columns; and whether failures among its pairs are to be judged again."""

    counts: Mapping[str, int]
    retried: bool

    @property
    def judged(self) -> int:
        """Pairs with an outcome."""
        return sum(self.counts[name] for name in ("yes", "no", "maybe", "failed"))


def holder_of(chunk: Mapping[str, Any]) -> Holder:
    """The process that a running chunk names."""
    return Holder(
        host=chunk["holder_host"], boot=chunk["holder_boot"], pid=chunk["holder_pid"], started=chunk["holder_started"]
    )


def keeper_of(chunk: Mapping[str, Any]) -> Holder | None:
    """The main process of the holder's worker; None for a holder of an older version."""
    if chunk["keeper_pid"] is None:
        return None
    return Holder(
        host=chunk["holder_host"], boot=chunk["holder_boot"], pid=chunk["keeper_pid"], started=chunk["keeper_started"]
    )


def is_orphaned(chunk: Mapping[str, Any]) -> bool:
    """Whether the holder is proved dead, and its main process as well: anybody may bury it."""
    keeper = keeper_of(chunk)
    return proved_dead(holder_of(chunk)) and (keeper is None or proved_dead(keeper))


def is_expired(chunk: Mapping[str, Any], *, wait_s: float) -> bool:
    """Whether the lease ended longer than `wait_s` ago."""
    return bool(chunk["expired_s"] > wait_s)


def death_of(chunk: Mapping[str, Any]) -> Death:
    """As it looks from outside: stuck if the process lives on this host without progress; died otherwise.

    A process of another host (or another boot of this one) cannot be examined: that its lease ended does not say that a
    pair took too long. One that somebody has stopped (SIGSTOP, a debugger) makes no progress either: no pair's doing.
    """
    holder, here = holder_of(chunk), this_process()
    is_here = (holder.host, holder.boot) == (here.host, here.boot)
    if not is_here or proved_dead(holder):
        return Death(cause=Cause.DIED, certain=False)
    if is_stopped(holder.pid):
        return Death(cause=Cause.STOPPED, certain=False)
    return Death(cause=Cause.STUCK, certain=True)


def bury(connection: Connection, chunk: Mapping[str, Any], death: Death, *, max_deaths: int) -> Burial:
    """Take a running chunk from its dead or hanging holder."""
    state, deaths, hand, named = ChunkState.PENDING, chunk["deaths"], {}, None
    if death.cause is Cause.LET_GO:
        pass
    elif chunk["marker_row"] is None or death.cause is Cause.STOPPED:
        deaths += 1
        state = ChunkState.PARKED if deaths >= max_deaths else ChunkState.PENDING
        # What surely was a crash, or a stop, says nothing about later kills.
        if death.hand is not None and not death.certain and death.cause is not Cause.STOPPED:
            hand = dict(zip(("hand_first", "hand_last"), death.hand, strict=True))
    else:
        named = _suspect(connection, chunk, death)
    connection.execute(
        update(chunks)
        .where(chunks.c.batch == chunk["batch"], chunks.c.number == chunk["number"])
        .values(state=state, deaths=deaths, **hand, **no_holder())
    )
    return Burial(state=state, named=named)


def is_stopped(pid: int) -> bool:
    """Whether somebody has stopped the process (SIGSTOP, a debugger); False where nothing is known of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()[0] in "Tt"
    except (OSError, IndexError):
        return False


def _suspect(connection: Connection, chunk: Mapping[str, Any], death: Death) -> str | None:
    """Suspect the marked pair, or name it; returns the failure's code if it is named."""
    row = chunk["marker_row"]
    this = (suspects.c.batch == chunk["batch"], suspects.c.row == row)
    deaths = (connection.scalar(select(suspects.c.deaths).where(*this)) or 0) + 1
    connection.execute(delete(suspects).where(*this))
    was_in_hand = chunk["hand_first"] is not None and chunk["hand_first"] <= row <= chunk["hand_last"]
    if deaths < (DEATHS_TO_NAME if death.certain or was_in_hand else DEATHS_TO_NAME_IN_DOUBT):
        slot = Provenance.from_json(chunk["provenance"]).worker
        key = {"batch": chunk["batch"], "row": row}
        connection.execute(insert(suspects).values(deaths=deaths, slot=slot, died_at=db_now(), **key))
        return None
    failure = _failure(chunk["marker_stage"], death.cause, deaths)
    make_room(connection, chunk["batch"], [row])
    connection.execute(insert(outcomes).values(_named(chunk, failure)))
    recount(connection, chunk)
    return failure.code


def _failure(stage: str, cause: Cause, deaths: int) -> Failure:
    times = "twice, the second time alone" if deaths == DEATHS_TO_NAME else f"{deaths} times, the last ones alone"
    if cause is Cause.STUCK:
        return Failure(code="timed_out", detail=f"no progress at stage {stage}, {times}")
    code = "decoder_crashed" if stage == "decode" else "worker_died"
    return Failure(code=code, detail=f"its process died at stage {stage}, {times}")


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


def recount(connection: Connection, chunk: Mapping[str, Any]) -> None:
    """Make the chunk's counts those of its outcomes."""
    values = dict(counted(connection, chunk).counts)
    connection.execute(THIS_CHUNK, {"its_batch": chunk["batch"], "its_number": chunk["number"], **values})


def counted(connection: Connection, chunk: Mapping[str, Any]) -> Counted:
    """Count the chunk's outcomes.

    Counting afresh is what makes recording idempotent: a commit whose answer was lost counts nothing twice.
    """
    rows = {"batch": chunk["batch"], "first": chunk["first_row"], "last": chunk["last_row"]}
    counts = dict(connection.execute(_COUNTED, rows).mappings().one())
    return Counted(retried=counts.pop("retried") > 0, counts=counts)
