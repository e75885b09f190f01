"""Claimants for tests: processes that live, and processes that are dead."""

import json
import subprocess
import sys
from dataclasses import replace

from sqlalchemy import Connection, insert

from audit.holder import Holder, this_process
from audit.message import ChunkMessage
from audit.pair import BatchId, ChunkNumber, Pair
from audit.verdict import Failure, Outcome, Scores, Verdict
from db import tables
from db.claim import Refusal, claim
from db.codec import pair_to_row
from db.engine import Database
from db.exports import outcomes
from db.lease import Claim, Claimant, Provenance
from tests.support.ledger_rows import a_pair, add_batch

PROVENANCE = Provenance(worker="w:0", model="demo", model_revision="r1", engine="stub", precision="fp32", device="cpu")


def claimant(
    *,
    holder: Holder | None = None,
    keeper: Holder | None = None,
    lease_s: float = 60.0,
    max_deaths: int = 5,
    slot: str = PROVENANCE.worker,
) -> Claimant:
    """Somebody who claims; this very process unless told otherwise."""
    return Claimant(
        holder=holder or this_process(),
        keeper=keeper,
        provenance=replace(PROVENANCE, worker=slot),
        lease_s=lease_s,
        max_deaths=max_deaths,
    )


def dead_process() -> Holder:
    """A process of this host that has really lived and really died."""
    code = "import json, dataclasses, audit.holder as h; print(json.dumps(dataclasses.asdict(h.this_process())))"
    told = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, timeout=60).stdout
    return Holder(**json.loads(told))


def elsewhere() -> Holder:
    """A process of another host, which nobody here can examine."""
    return replace(this_process(), host="another-host")


def batch_of(database: Database, pairs: int, *, chunk_pairs: int = 4, **columns: object) -> BatchId:
    """An open batch with pairs in pending chunks."""
    batch = add_batch(database, **columns)
    ranges = [range(first, min(pairs, first + chunk_pairs)) for first in range(0, pairs, chunk_pairs)]
    cut = [
        {
            "batch": batch,
            "number": n,
            "first_row": rows[0],
            "last_row": rows[-1],
            "pairs": len(rows),
            "state": "pending",
        }
        for n, rows in enumerate(ranges)
    ]
    filled = [{"batch": batch, **pair_to_row(a_pair(row))} for row in range(pairs)]

    def work(connection: Connection) -> None:  # in one transaction: a commit of each row takes most of a test's time
        if pairs:
            connection.execute(insert(tables.chunks), cut)
            connection.execute(insert(tables.pairs), filled)

    database.transact(work)
    return batch


def take(database: Database, batch: BatchId, chunk: int = 0, by: Claimant | None = None) -> Claim:
    """Claim, and insist on getting it."""
    held = attempt(database, batch, chunk, by)
    assert isinstance(held, Claim), held
    return held


def attempt(database: Database, batch: BatchId, chunk: int = 0, by: Claimant | None = None) -> Claim | Refusal:
    """Try to claim."""
    return claim(database, ChunkMessage(batch=batch, chunk=ChunkNumber(chunk)), by or claimant())


def yes(pair: Pair) -> Outcome:
    """The verdict Yes."""
    return Outcome(
        row=pair.row, result=Verdict(scores=Scores(p_yes=0.8, p_no=0.1, p_maybe=0.1)), content_key=f"k{pair.row}"
    )


def no(pair: Pair) -> Outcome:
    """The verdict No."""
    return Outcome(
        row=pair.row, result=Verdict(scores=Scores(p_yes=0.1, p_no=0.8, p_maybe=0.1)), content_key=f"n{pair.row}"
    )


def broken(pair: Pair) -> Outcome:
    """A failure."""
    return Outcome(row=pair.row, result=Failure(code="image_empty", detail="zero bytes"))


def results(database: Database, batch: BatchId) -> dict[int, str]:
    """Label or failure code by row."""
    return {row.row: row.label or str(row.failure_code) for row in outcomes(database, batch)}
