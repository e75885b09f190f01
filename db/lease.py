"""A lease on a chunk: what a holder has in hand, extends by progress, and gives back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, update

from audit.holder import Holder
from audit.message import Lane
from audit.pair import BatchId, ChunkNumber, Pair, Row
from audit.policy import Policy
from db.engine import Database, db_now
from db.tables import ChunkState, chunks

THIS_CHUNK = update(chunks).where(chunks.c.batch == bindparam("its_batch"), chunks.c.number == bindparam("its_number"))
"""UPDATE of one chunk; the other parameters are its new values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Who judges and with what; stored with every outcome."""

    worker: str
    model: str
    model_revision: str
    engine: str
    precision: str
    device: str

    def to_json(self) -> str:
        """For the chunk's row, so that the ledger can say it when the process cannot any more."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """The inverse of to_json."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """Who claims, and the rules of the lease: its length, and how many deaths park a chunk.

    `keeper` is the main process of the holder's worker, which will say how the holder ended.
    """

    holder: Holder
    keeper: Holder | None = None
    provenance: Provenance
    lease_s: float
    max_deaths: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A chunk that this process holds until its lease ends.

    `pairs` are those that want an outcome, in row order. `careful` asks for one pair at a time with a committed marker;
    `suspects` are judged last; `retried` have a failure that their new outcome replaces; `left_out` are
    suspects that another slot is to judge. `token` fences: only its owner can record. `traceparent` is of the
    submission, `waited_s` how long the chunk's message was out (of one that nobody has had in
    hand since). `place_failed`: pictures of this image root could not
    be read here lately, and what becomes of this chunk decides about others (db/breakers.py).
    """

    batch: BatchId
    chunk: ChunkNumber
    token: str
    attempt: int
    careful: bool
    image_root: str
    policy: Policy
    pairs: tuple[Pair, ...]
    suspects: frozenset[Row]
    retried: frozenset[Row]
    left_out: frozenset[Row]
    claimant: Claimant
    traceparent: str | None = None
    lane: Lane = Lane.BULK
    waited_s: float | None = None
    place_failed: bool = False


def renew(database: Database, claim: Claim) -> bool:
    """Extend the lease after progress; False when the chunk is not ours any more (taken over, or cancelled)."""
    return database.transact(lambda connection: _extend(connection, claim, {}))


def mark(database: Database, claim: Claim, *, row: Row, stage: str) -> bool:
    """Commit which pair is about to be touched, and extend the lease; False when the chunk is not ours any more."""
    return database.transact(lambda connection: _extend(connection, claim, {"marker_row": row, "marker_stage": stage}))


def release(database: Database, claim: Claim, *, charge: bool) -> ChunkState | None:
    """Give the chunk back to be claimed by anybody; what was recorded stays.

    With `charge` a death is counted that blames no pair (a limit fired, the engine failed), and the last one allowed
    parks the chunk; without it (a shutdown) the attempt never was. Returns the chunk's new state, None when it was not
    ours any more.
    """
    deaths = chunks.c.deaths + 1
    charged: dict[str, Any] = {
        "deaths": deaths,
        "state": case((deaths >= claim.claimant.max_deaths, ChunkState.PARKED), else_=ChunkState.PENDING),
    }
    free: dict[str, Any] = {"attempts": chunks.c.attempts - 1, "state": ChunkState.PENDING}

    def work(connection: Connection) -> ChunkState | None:
        given_back = update(chunks).where(ours(claim)).values(**no_holder(), **(charged if charge else free))
        state = connection.scalar(given_back.returning(chunks.c.state))
        return None if state is None else ChunkState(state)

    return database.transact(work)


def no_holder() -> Mapping[str, Any]:
    """Column values of a chunk that nobody holds."""
    return {"token": None, "lease_until": None, "marker_row": None, "marker_stage": None}


def ours(claim: Claim) -> ColumnElement[bool]:
    """True for the claim's chunk while its token is the valid one."""
    return and_(
        chunks.c.batch == claim.batch,
        chunks.c.number == claim.chunk,
        chunks.c.token == claim.token,
        chunks.c.state == ChunkState.RUNNING,
    )


def _extend(connection: Connection, claim: Claim, values: Mapping[str, Any]) -> bool:
    until = db_now() + claim.claimant.lease_s
    return connection.execute(update(chunks).where(ours(claim)).values(lease_until=until, **values)).rowcount == 1
