"""One side of benchmarks.ledger_speed: claims and records one more chunk for each line that it is given.

Run by its path, with a checkout in PYTHONPATH whose code is to be timed; answers each line with JSON.
"""

import json
import sys
import time

from sqlalchemy import Connection, insert

from audit.holder import this_process
from audit.message import ChunkMessage
from audit.pair import BatchId, ChunkNumber, Pair, Row
from audit.settings import Settings
from benchmarks.record_rate import CHUNK, outcome
from db.claim import claim
from db.codec import pair_to_row
from db.engine import Database, open_database
from db.lease import Claim
from db.record import Recorded, record
from db.tables import chunks, pairs
from tests.support.claims import claimant
from tests.support.ledger_rows import add_batch


def register(database: Database, rounds: int) -> BatchId:
    """A batch with a chunk for each round."""
    batch = add_batch(database)

    def work(connection: Connection) -> None:
        for number in range(rounds):
            rows = range(number * CHUNK, (number + 1) * CHUNK)
            chunk = {"batch": batch, "number": number, "first_row": rows[0], "last_row": rows[-1], "pairs": CHUNK}
            connection.execute(insert(chunks).values(**chunk, state="pending"))
            connection.execute(insert(pairs), [{"batch": batch, **pair_to_row(a_pair(row))} for row in rows])

    database.transact(work)
    return batch


def a_pair(row: int) -> Pair:
    """As long as usual ones."""
    caption = f"a photograph of a red square above a blue circle, number {row} of its series"
    return Pair(row=Row(row), id=f"pair-{row:09d}", image=f"images/{row:09d}.jpg", caption=caption)


def one_chunk(database: Database, batch: BatchId, number: int) -> dict[str, float]:
    """Seconds of claiming and of recording, and of the processor of this process for both."""
    message, by = ChunkMessage(batch=batch, chunk=ChunkNumber(number)), claimant(holder=this_process())
    began, cpu = time.perf_counter(), time.process_time()
    held = claim(database, message, by)
    claimed, cpu_s = time.perf_counter(), time.process_time() - cpu
    assert isinstance(held, Claim)
    results = [outcome(pair.row) for pair in held.pairs]
    started, cpu = time.perf_counter(), time.process_time()
    assert record(database, held, results) is Recorded.DONE
    done = time.perf_counter()
    return {"claim": claimed - began, "record": done - started, "cpu": cpu_s + time.process_time() - cpu}


def main() -> None:
    """Answer until there are no more lines."""
    database = open_database(Settings.model_validate({"database_url": sys.argv[1]}).ledger_url)
    batch = register(database, int(sys.argv[2]))
    print("ready", flush=True)
    for number, _ in enumerate(sys.stdin):
        print(json.dumps(one_chunk(database, batch, number)), flush=True)


if __name__ == "__main__":
    main()
