"""A whole ledger as plain values: of a real one by SQL, and of the reference, so that the two can be compared."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, select

from audit.pair import BatchId
from db.engine import Database, db_now
from db.exports import outcomes
from db.queries import Progress, list_batches
from tests.support.ledger_reference import Reference
from tests.support.ledger_reference_values import Batch, Chunk

Whole = dict[str, Any]
"""What is told of a batch, by a name of it."""
COUNTED = ("Yes", "No", "Maybe", "failed")
COMPARED = ("batches", "chunks", "pairs", "outcomes", "suspects", "retries", "failure_history")
ROUNDED_S = 10_000
"""Times are compared as multiples of it, so that the time that a test itself takes makes no difference."""


def whole_ledger(connection: Connection, names: Mapping[BatchId, str], tokens: Mapping[str, int]) -> Whole:
    """Every table about these batches; `tokens` are the reference's numbers of the real tokens.

    It is asked after each step, and would take most of a machine's time otherwise than by plain statements.
    """
    now = float(connection.scalar(select(db_now())) or 0)
    rows = _all_rows(connection)
    states = {row["id"]: row["state"] for row in rows["batches"]}
    found: Whole = {name: {"state": states.get(batch), "chunks": {}} for batch, name in names.items()}
    for chunk in rows["chunks"]:
        found[names[chunk["batch"]]]["chunks"][chunk["number"]] = _chunk_in_sql(chunk, now, tokens)
    for what, value in (
        ("pairs", lambda row: True),
        ("outcomes", _outcome),
        ("suspects", lambda row: (row["deaths"], row["slot"])),
        ("retries", lambda row: True),
    ):
        for name in names.values():
            found[name][what] = {}
        for row in rows[what]:
            found[names[row["batch"]]][what][row["row"]] = value(row)
    for name in names.values():
        found[name]["history"] = {}
    for row in sorted(rows["failure_history"], key=lambda row: float(row["replaced_at"])):
        found[names[row["batch"]]]["history"].setdefault(row["row"], []).append(row["failure_code"])
    return found


def whole_reference(reference: Reference) -> Whole:
    """The same of the reference."""
    return {name: _batch(batch, reference.now) for name, batch in reference.batches.items()}


def what_people_see(database: Database, names: Mapping[BatchId, str]) -> Whole:
    """Progress, and which rows are flagged, as status and exports tell them."""
    return {
        names[seen.batch]: {
            "progress": _progress(seen),
            "flagged": {row.row for row in outcomes(database, seen.batch, flagged_only=True)},
        }
        for seen in list_batches(database, limit=len(names))
    }


def what_people_should_see(reference: Reference) -> Whole:
    """The same of the reference."""
    return {
        name: {
            "progress": _expected_progress(batch),
            "flagged": {row for row, one in batch.outcomes.items() if one.told == "No"},
        }
        for name, batch in reference.batches.items()
    }


def differences(seen: Any, expected: Any, where: str = "") -> Iterator[str]:
    """What differs, one line each."""
    if isinstance(seen, dict) and isinstance(expected, dict):
        for key in {**seen, **expected}:
            yield from differences(seen.get(key), expected.get(key), f"{where}/{key}")
    elif seen != expected:
        yield f"{where}: the ledger has {seen!r}, the reference {expected!r}"


def _all_rows(connection: Connection) -> dict[str, list[Mapping[str, Any]]]:
    """Of the tables that are compared; from PostgreSQL in one answer, since a round trip takes longer than a look."""
    found: dict[str, list[Mapping[str, Any]]] = {name: [] for name in COMPARED}
    if connection.dialect.name == "postgresql":
        each = (f"SELECT '{name}', to_json({name})::text FROM {name}" for name in COMPARED)
        for name, row in connection.exec_driver_sql(" UNION ALL ".join(each)):
            found[name].append(json.loads(row))
    else:
        for name in COMPARED:
            found[name] += map(dict, connection.exec_driver_sql(f"SELECT * FROM {name}").mappings())
    return found


def _chunk_in_sql(row: Mapping[str, Any], now: float, tokens: Mapping[str, int]) -> Mapping[str, Any]:
    return {
        **{name: row[name] for name in ("state", "attempts", "deaths", "sends", "fenced", "pairs")},
        "rows": (row["first_row"], row["last_row"]),
        "marker": None if row["marker_row"] is None else (row["marker_row"], row["marker_stage"]),
        "hand": None if row["hand_first"] is None else (row["hand_first"], row["hand_last"]),
        "token": None if row["token"] is None else tokens.get(row["token"], "unknown"),
        "lease": _away(row["lease_until"], now),
        "done": _away(row["done_at"], now),
        "counts": {name: row[name.lower()] for name in COUNTED},
        "flagged": row["flagged"],
    }


def _away(time: float | None, now: float) -> int | None:
    return None if time is None else round((time - now) / ROUNDED_S)


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
        "lease": _away(chunk.until, now),
        "done": _away(chunk.done_at, now),
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
