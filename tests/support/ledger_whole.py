"""A whole ledger as plain values: of a real one by SQL, and of the reference, so that the two can be compared."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Table, select

from audit.pair import BatchId
from db import tables
from db.engine import Database, db_now
from db.exports import outcomes
from db.queries import Progress, list_batches
from tests.support.ledger_reference import Reference
from tests.support.ledger_reference_values import Batch, Chunk

Whole = dict[str, Any]
"""What is told of a batch, by a name of it."""
COUNTED = ("Yes", "No", "Maybe", "failed")
ROUNDED_S = 10_000
"""Leases are compared as multiples of it, so that the time that a test itself takes makes no difference."""


def whole_ledger(database: Database, names: Mapping[BatchId, str], tokens: Mapping[str, int]) -> Whole:
    """Everything about these batches; `tokens` are the reference's numbers of the real tokens."""
    with database.reading() as connection:
        now = float(connection.scalar(select(db_now())) or 0)
        states = {row["id"]: row["state"] for row in _rows(connection, tables.batches)}
        found: Whole = {name: {"state": states.get(batch), "chunks": {}} for batch, name in names.items()}
        for chunk in _rows(connection, tables.chunks):
            found[names[chunk["batch"]]]["chunks"][chunk["number"]] = _chunk_in_sql(chunk, now, tokens)
        for what, table, value in (
            ("pairs", tables.pairs, lambda row: True),
            ("outcomes", tables.outcomes, _outcome),
            ("suspects", tables.suspects, lambda row: (row["deaths"], row["slot"])),
            ("retries", tables.retries, lambda row: True),
        ):
            for name in names.values():
                found[name][what] = {}
            for row in _rows(connection, table):
                found[names[row["batch"]]][what][row["row"]] = value(row)
        for name in names.values():
            found[name]["history"] = {}
        for row in _rows(connection, tables.failure_history, tables.failure_history.c.replaced_at):
            found[names[row["batch"]]]["history"].setdefault(row["row"], []).append(row["failure_code"])
    for seen in list_batches(database, limit=len(names)):
        found[names[seen.batch]]["progress"] = _progress(seen)
    for batch, name in names.items():
        if states.get(batch) is not None:
            found[name]["flagged"] = {row.row for row in outcomes(database, batch, flagged_only=True)}
    return found


def whole_reference(reference: Reference) -> Whole:
    """The same of the reference."""
    return {name: _batch(batch, reference.now) for name, batch in reference.batches.items()}


def differences(seen: Any, expected: Any, where: str = "") -> Iterator[str]:
    """What differs, one line each."""
    if isinstance(seen, dict) and isinstance(expected, dict):
        for key in {**seen, **expected}:
            yield from differences(seen.get(key), expected.get(key), f"{where}/{key}")
    elif seen != expected:
        yield f"{where}: the ledger has {seen!r}, the reference {expected!r}"


def _rows(connection: Connection, table: Table, *order: Any) -> Iterator[Mapping[str, Any]]:
    yield from map(dict, connection.execute(select(table).order_by(*order)).mappings())


def _chunk_in_sql(row: Mapping[str, Any], now: float, tokens: Mapping[str, int]) -> Mapping[str, Any]:
    left_s = None if row["lease_until"] is None else row["lease_until"] - now
    return {
        **{name: row[name] for name in ("state", "attempts", "deaths", "sends", "fenced", "pairs")},
        "rows": (row["first_row"], row["last_row"]),
        "marker": None if row["marker_row"] is None else (row["marker_row"], row["marker_stage"]),
        "hand": None if row["hand_first"] is None else (row["hand_first"], row["hand_last"]),
        "token": None if row["token"] is None else tokens.get(row["token"], "unknown"),
        "lease": None if left_s is None else round(left_s / ROUNDED_S),
        "counts": {name: row[name.lower()] for name in COUNTED},
        "flagged": row["flagged"],
    }


def _outcome(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["label"] or row["failure_code"], row["attempt"], row["worker"], bool(row["flagged"])


def _progress(seen: Progress) -> Mapping[str, Any]:
    counted = {name: getattr(seen, name.lower()) for name in COUNTED}
    sums = {name: getattr(seen, name) for name in ("submitted", "flagged", "cancelled", "remaining", "retrying")}
    return {"state": seen.state, **counted, **sums, "chunks": dict(seen.chunks)}


def _batch(batch: Batch, now: int) -> Whole:
    told = {row: (one.told, one.attempt, one.worker, one.told == "No") for row, one in batch.outcomes.items()}
    return {
        "state": batch.state,
        "chunks": {number: _chunk(batch, chunk, now) for number, chunk in batch.chunks.items()},
        "pairs": dict.fromkeys(batch.pairs, True),
        "outcomes": told,
        "suspects": {row: (one.deaths, one.slot) for row, one in batch.suspects.items()},
        "retries": dict.fromkeys(batch.retries, True),
        "history": {row: list(codes) for row, codes in batch.history.items()},
        "progress": _expected_progress(batch),
        "flagged": {row for row, one in batch.outcomes.items() if one.told == "No"},
    }


def _chunk(batch: Batch, chunk: Chunk, now: int) -> Mapping[str, Any]:
    counts = batch.counts(chunk.rows)
    return {
        **{
            name: getattr(chunk, name)
            for name in ("state", "attempts", "deaths", "sends", "fenced", "token", "marker", "hand")
        },
        "pairs": len(batch.pairs.intersection(chunk.rows)),
        "rows": (chunk.rows[0], chunk.rows[-1]),
        "lease": None if chunk.until is None else round((chunk.until - now) / ROUNDED_S),
        "counts": {name: counts[name] for name in COUNTED},
        "flagged": counts["No"],
    }


def _expected_progress(batch: Batch) -> Mapping[str, Any]:
    chunks = batch.chunks.values()
    states = [chunk.state for chunk in chunks]
    counts = batch.counts(sorted(batch.pairs))
    cancelled = sum(len(batch.unjudged(chunk)) for chunk in chunks if chunk.state == "cancelled")
    if batch.state != "open":
        state = batch.state
    elif {"pending", "sent", "running"}.intersection(states):
        state = "running" if any(chunk.claimed for chunk in chunks) or counts.total() else "queued"
    else:
        state = "parked" if "parked" in states else "done"
    return {
        "state": state,
        **{name: counts[name] for name in COUNTED},
        "submitted": len(batch.pairs),
        "flagged": counts["No"],
        "cancelled": cancelled,
        "retrying": len(batch.retries),
        "remaining": len(batch.pairs) - counts.total() - cancelled,
        "chunks": {state: states.count(state) for state in set(states)},
    }
