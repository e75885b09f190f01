"""A worker that waits before its second chunk, with the ledger's work or without: for benchmarks.ledger_cost.

    python -m benchmarks.ledger_cost_worker on|off GATE

Settings come from the environment, as a worker's do. The second chunk begins once the file GATE exists; GATE.waiting
says that it waits for that. The first one is not measured: statements are put together then. With `off` a chunk is
read, judged, written and marked as done, and that is all: no state, holder, token, attempt or lease at a claim, and no
look for outcomes, retries and suspects; no lock, token, recount and lease when outcomes are written; no progress
and rows in hand on the board; no sweep, recall, feed, giving way and telling in a round of housekeeping.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, bindparam, select

import db.claim
import db.lease
import db.record
import worker.board
import worker.housekeeping
from audit.message import ChunkMessage
from audit.policy import Policy
from audit.settings import read_settings
from audit.verdict import Outcome
from db.codec import row_to_pair
from db.engine import Database, db_now
from db.lease import THIS_CHUNK, Claim, Claimant
from db.record import Recorded
from db.tables import ChunkState, batches, chunks, pairs

_CHUNK = (
    select(chunks.c.first_row, chunks.c.last_row, batches.c.policy, batches.c.image_root)
    .join(batches, batches.c.id == chunks.c.batch)
    .where(chunks.c.batch == bindparam("batch"), chunks.c.number == bindparam("number"))
)
_PAIRS = (
    select(*(pairs.c[name] for name in ("row", "id", "image", "caption", "premise", "extra", "raw")))
    .where(pairs.c.batch == bindparam("batch"), pairs.c.row.between(bindparam("first"), bindparam("last")))
    .order_by(pairs.c.row)
)
_DONE = THIS_CHUNK.values(done_at=db_now())
_write = db.record._write


def read(database: Database, message: ChunkMessage, claimant: Claimant) -> Claim:
    """The chunk's pairs, as if they had been claimed."""
    with database.reading() as connection:
        chunk = connection.execute(_CHUNK, {"batch": message.batch, "number": message.chunk}).mappings().one()
        key = {"batch": message.batch, "first": chunk["first_row"], "last": chunk["last_row"]}
        found = connection.execute(_PAIRS, key).mappings().all()
    nothing: Any = frozenset()
    return Claim(
        batch=message.batch,
        chunk=message.chunk,
        token="",
        attempt=1,
        careful=False,
        image_root=chunk["image_root"],
        policy=Policy.from_json(chunk["policy"]),
        pairs=tuple(row_to_pair(row) for row in found),
        suspects=nothing,
        retried=nothing,
        left_out=nothing,
        claimant=claimant,
    )


def write(database: Database, claim: Claim, results: Sequence[Outcome], *, trace_id: str | None = None) -> Recorded:
    """Insert the outcomes; the chunk is done."""
    this = {"its_batch": claim.batch, "its_number": claim.chunk, "state": ChunkState.DONE}

    def work(connection: Connection) -> None:
        _write(connection, claim, results, trace_id)
        connection.execute(_DONE, this)

    database.transact(work)
    return Recorded.DONE


def take_away() -> None:
    """Before anybody has imported them by name."""
    db.claim.claim = read
    db.lease.renew = lambda *_: True
    db.record.record = write
    board: Any = worker.board.Board
    board.progressed = board.holds = lambda *_: None
    housekeeper: Any = worker.housekeeping.Housekeeper
    housekeeper._round = lambda self: self._rounds.check()  # the board and the ready file


def wait_at(gate: Path) -> None:
    """Before the second chunk of this process."""
    from worker import tasks

    real, begun = tasks.judge_chunk, 0

    def judge_chunk(message: ChunkMessage, office: Any) -> tasks.Ending:
        nonlocal begun
        begun += 1
        if begun == 2:
            gate.with_suffix(".waiting").touch()
            while not gate.exists():
                time.sleep(0.01)
        return real(message, office)

    tasks.judge_chunk = judge_chunk


def main() -> int:
    """Run the worker until it is told to stop; returns its exit status."""
    way, gate = sys.argv[1:]
    if way == "off":
        take_away()
    wait_at(Path(gate))
    from worker.app import run_worker

    return run_worker(read_settings())


if __name__ == "__main__":
    raise SystemExit(main())
