"""Verifying: whether what the ledger holds is what it may hold, told from the rows alone.

A batch is read slice by slice, each slice of whole chunks in one read transaction: what is compared is of one moment,
so workers that go on meanwhile raise no false alarm, and memory does not grow with the batch.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from audit.errors import UsageError
from audit.message import Lane
from audit.pair import BatchId, ChunkNumber
from audit.policy import Policy
from db.engine import Database, db_now
from db.tables import BatchState, ChunkState, batches, chunks, outcomes, pairs
from db.verify_rows import (
    CLOCK_S,
    COUNTED,
    broken_rows,
    look_at_chunks,
    look_at_small_tables,
    outcome_faults,
    rows_between,
    unjudged_rows,
)

SLICE_CHUNKS = 200
SLICE_ROWS = 50_000
"""Rows that one transaction looks at, about half a second's worth; a chunk that is larger is a slice of its own."""
HOLDER = ("token", "lease_until", "provenance", "holder_host", "holder_boot", "holder_pid", "holder_started")
UNFINISHED = (ChunkState.PENDING, ChunkState.SENT, ChunkState.RUNNING, ChunkState.PARKED)
LAST_ROW = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that does not hold: `kind` is stable and for programs, `detail` for people.

    `count` is how many rows are meant, `rows` names the first of them.
    """

    kind: str
    detail: str
    batch: BatchId | None = None
    chunk: ChunkNumber | None = None
    count: int = 1
    rows: tuple[int, ...] = ()


@dataclass(slots=True, kw_only=True)
class Seen:
    """What was counted so far: submitted = verdicts + failures + cancelled + remaining, by the rows themselves."""

    batch: BatchId
    state: str
    chunks: int = 0
    submitted: int = 0
    verdicts: int = 0
    failures: int = 0
    cancelled: int = 0
    remaining: int = 0


def known_batches(database: Database, batch: BatchId | None = None) -> dict[BatchId, int]:
    """The batches to verify, oldest first, with how many pairs each should have; raises UsageError."""
    said = func.coalesce(func.sum(chunks.c.pairs), 0)
    query = select(batches.c.id, said).outerjoin(chunks, chunks.c.batch == batches.c.id).group_by(batches.c.id)
    if batch is not None:
        query = query.where(batches.c.id == batch)
    with database.reading() as connection:
        found = {BatchId(number): int(held) for number, held in connection.execute(query.order_by(batches.c.id))}
    if batch is not None and not found:
        raise UsageError("unknown_batch", f"there is no batch {batch} in this ledger")
    return found


def verify_batch(
    database: Database, batch: BatchId, *, told: Callable[[Seen], object] = lambda _: None
) -> Iterator[Finding]:
    """Everything about one batch that does not hold; `told` hears after each slice what was counted.

    A batch that is removed meanwhile ends it. Raises LedgerUnavailable.
    """
    seen = Seen(batch=batch, state="")
    last: Mapping[str, Any] | None = None
    more = True
    while more:
        with database.reading() as connection:
            row = connection.execute(select(batches).where(batches.c.id == batch)).mappings().first()
            if row is None:
                return
            now = float(connection.scalar(select(db_now())) or 0.0)
            look = _Look(connection=connection, batch=dict(row), now=now, seen=seen)
            found = [] if last is not None else list(look.at_batch())
            numbers, more = _next_slice(connection, batch, last)
            rows = look_at_chunks(connection, batch, numbers, look.faults) if numbers else []
            for chunk in rows:
                found += look.at_chunk(chunk, last)
                last = chunk
            if not more:
                found += look.at_end(last)
        yield from found
        told(seen)


def _next_slice(
    connection: Connection, batch: BatchId, last: Mapping[str, Any] | None
) -> tuple[tuple[int, int] | None, bool]:
    """First and last number of the chunks to look at next (None: there are none), and whether more may follow."""
    after = -(2**31) if last is None else last["number"]
    query = select(chunks.c.number, chunks.c.first_row, chunks.c.last_row).where(
        chunks.c.batch == batch, chunks.c.number > after
    )
    found = connection.execute(query.order_by(chunks.c.number).limit(SLICE_CHUNKS)).all()
    if not found:
        return None, False
    end, rows = 0, 0
    for end, chunk in enumerate(found):  # noqa: B007 - used after the loop
        rows += max(chunk.last_row - chunk.first_row + 1, 0)
        if rows >= SLICE_ROWS:
            break
    whole = end == len(found) - 1
    return (found[0].number, found[end].number), not (whole and len(found) < SLICE_CHUNKS)


class _Look:
    """One slice of a batch, in one read transaction."""

    def __init__(self, *, connection: Connection, batch: Mapping[str, Any], now: float, seen: Seen) -> None:
        self.connection, self.row, self.now, self.seen = connection, batch, now, seen
        self.batch = BatchId(batch["id"])
        self.seen.state = batch["state"]
        self.policy = _policy(batch["policy"])
        self.faults: Mapping[str, ColumnElement[bool]] = outcome_faults(self.policy, now)

    def at_batch(self) -> Iterator[Finding]:
        """Its own row, and the tables that stay small."""
        if self.row["state"] not in set(BatchState):
            yield self._finding("unknown_state", f"its state is {self.row['state']!r}")
        if self.row["lane"] not in set(Lane):
            yield self._finding("unknown_state", f"its lane is {self.row['lane']!r}")
        if self.policy is None:
            yield self._finding("bad_policy", "its policy cannot be read, so flags were not checked")
        yield from self._future(self.row, ("created_at", "opened_at", "cancelled_at"))
        for kind, count, rows in look_at_small_tables(self.connection, self.batch, self.now):
            yield self._finding(kind, count=count, rows=rows)

    def at_chunk(self, chunk: Mapping[str, Any], before: Mapping[str, Any] | None) -> Iterator[Finding]:
        """One chunk, its pairs and its outcomes."""
        number = ChunkNumber(chunk["number"])
        found = json.loads(chunk["found"]) if isinstance(chunk["found"], str) else chunk["found"]
        counts, judged, broken = found[: len(COUNTED)], found[len(COUNTED)], found[len(COUNTED) + 1 :]
        rows = (chunk["first_row"], chunk["last_row"])
        yield from self._place(chunk, before)
        if chunk["pairs"] != chunk["held"]:
            yield self._finding("wrong_pairs", f"it says {chunk['pairs']} pairs, its rows hold {chunk['held']}", number)
        stored = [chunk[name] for name in COUNTED]
        if stored != counts:
            yield self._finding(
                "wrong_counts", f"it says {_counts(stored)}; its outcomes are {_counts(counts)}", number
            )
        for (kind, holds), count in zip(self.faults.items(), broken, strict=True):
            if count:
                first = broken_rows(self.connection, self.batch, rows, holds)
                yield self._finding(kind, "", number, count=count, rows=first)
        left = chunk["held"] - (judged - broken[list(self.faults).index("outcome_without_pair")])
        if left > 0 and chunk["state"] == ChunkState.DONE:
            first = unjudged_rows(self.connection, self.batch, rows)
            yield self._finding("done_without_outcome", "", number, count=left, rows=first)
        yield from self._state(chunk)
        self._count(chunk, verdicts=sum(counts[:3]), failures=counts[3], left=left)

    def at_end(self, last: Mapping[str, Any] | None) -> Iterator[Finding]:
        """What lies behind the last chunk."""
        behind = -LAST_ROW if last is None else last["last_row"] + 1
        yield from self._outside((behind, LAST_ROW))

    def _place(self, chunk: Mapping[str, Any], before: Mapping[str, Any] | None) -> Iterator[Finding]:
        number = ChunkNumber(chunk["number"])
        due = 0 if before is None else before["number"] + 1
        if number != due:
            yield self._finding(
                "chunk_missing", f"{due} to {number - 1} are missing", number, count=max(number - due, 1)
            )
        first, last = chunk["first_row"], chunk["last_row"]
        next_row = 0 if before is None else before["last_row"] + 1
        if last < first:
            yield self._finding("bad_range", f"its rows are {first} to {last}", number)
        if first < next_row:
            yield self._finding("bad_range", f"it begins with row {first}, which the chunk before has", number)
        if first > next_row:
            yield self._finding("bad_range", f"rows {next_row} to {first - 1} before it are in no chunk", number)
        yield from self._outside((-LAST_ROW if before is None else next_row, first - 1))

    def _outside(self, rows: tuple[int, int]) -> Iterator[Finding]:
        if rows[1] < rows[0]:
            return
        for kind, table in (("pair_in_no_chunk", pairs), ("outcome_in_no_chunk", outcomes)):
            count, first = rows_between(self.connection, table, self.batch, rows)
            if count:
                yield self._finding(kind, count=count, rows=first)

    def _state(self, chunk: Mapping[str, Any]) -> Iterator[Finding]:
        number, state = ChunkNumber(chunk["number"]), chunk["state"]
        if state not in set(ChunkState):
            yield self._finding("unknown_state", f"its state is {state!r}", number)
        missing = [name for name in HOLDER if chunk[name] is None]
        if state == ChunkState.RUNNING and missing:
            yield self._finding("running_without_holder", f"it has no {', '.join(missing)}", number)
        if state == ChunkState.DONE and chunk["done_at"] is None:
            yield self._finding("done_without_time", "it has no done_at", number)
        if self.row["state"] == BatchState.CANCELLED and state in UNFINISHED:
            yield self._finding("unfinished_in_cancelled", f"it is {state}, its batch is cancelled", number)
        if self.row["state"] != BatchState.CANCELLED and state == ChunkState.CANCELLED:
            yield self._finding("cancelled_in_open", f"it is cancelled, its batch is {self.row['state']}", number)
        counts = ("pairs", *COUNTED, "attempts", "deaths", "sends", "fenced")
        negative = [f"{name} {chunk[name]}" for name in counts if chunk[name] < 0]
        if negative:
            yield self._finding("negative_count", ", ".join(negative), number)
        yield from self._future(chunk, ("sent_at", "claimed_at", "done_at"), number)

    def _future(
        self, row: Mapping[str, Any], names: Sequence[str], chunk: ChunkNumber | None = None
    ) -> Iterator[Finding]:
        for name in names:
            if row[name] is not None and row[name] > self.now + CLOCK_S:
                ahead = f"{name} is {row[name] - self.now:.0f} s ahead of the database's clock"
                yield self._finding("from_the_future", ahead, chunk)

    def _count(self, chunk: Mapping[str, Any], *, verdicts: int, failures: int, left: int) -> None:
        self.seen.chunks += 1
        self.seen.submitted += chunk["held"]
        self.seen.verdicts += verdicts
        self.seen.failures += failures
        if chunk["state"] == ChunkState.CANCELLED:
            self.seen.cancelled += left
        else:
            self.seen.remaining += left

    def _finding(
        self, kind: str, detail: str = "", chunk: ChunkNumber | None = None, *, count: int = 1, rows: Sequence[int] = ()
    ) -> Finding:
        return Finding(kind=kind, detail=detail, batch=self.batch, chunk=chunk, count=count, rows=tuple(rows))


def _policy(text: str) -> Policy | None:
    try:
        return Policy.from_json(text)
    except (ValueError, KeyError, TypeError, UsageError):
        return None


def _counts(values: Sequence[int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(COUNTED, values, strict=True))
