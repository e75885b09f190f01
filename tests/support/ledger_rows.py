"""Rows put into the ledger directly, for tests of what reads it."""

import time
from typing import Any
from uuid import uuid4

from sqlalchemy import insert

from audit.pair import BatchId, Pair, Row
from db import tables
from db.codec import pair_to_row
from db.engine import Database


def add_batch(database: Database, **columns: Any) -> BatchId:
    """One batch without chunks; open unless the columns say otherwise."""
    row = {
        "key": uuid4().hex,
        "name": "samples",
        "tenant": "default",
        "lane": "bulk",
        "priority": 0,
        "model": "demo",
        "policy": '{"labels":["No"],"p_no_at_least":null}',
        "image_root": "/",
        "wire_version": 1,
        "state": "open",
        "created_at": time.time(),
        **columns,
    }
    return database.transact(
        lambda connection: BatchId(connection.execute(insert(tables.batches), row).inserted_primary_key[0])  # type: ignore[index]
    )


def add_chunk(database: Database, batch: BatchId, number: int, state: str, pairs: int = 10, **columns: Any) -> None:
    row: dict[str, Any] = {
        "batch": batch,
        "number": number,
        "first_row": number * 1000,
        "last_row": number * 1000 + pairs - 1,
    }
    row |= {"pairs": pairs, "state": state, **columns}
    database.transact(lambda connection: connection.execute(insert(tables.chunks), row))


def add_pair(database: Database, batch: BatchId, pair: Pair, **outcome: Any) -> None:
    """A pair, and its outcome when one is given: `label` with scores, or `failure_code`."""
    row = {"batch": batch, "row": pair.row, "flagged": False, "flags": "", "cached": False, "model": "demo"}
    row |= {"model_revision": "r1", "engine": "stub", "precision": "fp32", "device": "cpu", "worker": "w", "attempt": 1}
    row |= {"judged_at": 1_700_000_000.25, **outcome}

    def work(connection: Any) -> None:
        connection.execute(insert(tables.pairs), {"batch": batch, **pair_to_row(pair)})
        if outcome:
            connection.execute(insert(tables.outcomes), row)

    database.transact(work)


def a_pair(row: int, **texts: Any) -> Pair:
    return Pair(**{"row": Row(row), "id": f"id-{row}", "image": f"{row}.png", "caption": f"caption {row}", **texts})


YES = {"label": "Yes", "p_yes": 0.9, "p_no": 0.0625, "p_maybe": 0.0375}
NO = {"label": "No", "p_yes": 0.1, "p_no": 0.75, "p_maybe": 0.15, "flagged": True}
BROKEN = {"failure_code": "image_empty", "failure_detail": "zero bytes"}
