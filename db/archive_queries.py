"""Outcomes by when they were judged: a month's, of all batches, streamed.

`outcomes` has no index on its time. What narrows the reading is `chunks`: whatever was judged in a month lies in a
chunk that was finished in it or later, or is not finished, of a batch that was made before its end. Each page is a
transaction of its own, as in db/exports.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, bindparam, or_, select

from audit.pair import BatchId
from db.engine import Database, db_now
from db.exports import PAIR_COLUMNS, OutcomeRow, outcome_row
from db.tables import ChunkState, batches, chunks, outcomes, pairs

PAGE = 1000
SLACK_S = 86_400.0
"""A chunk is finished after its outcomes were judged; a clock that was set back meanwhile, by less than this."""
FACTS = (
    "model",
    "model_revision",
    "label",
    "p_yes",
    "p_no",
    "p_maybe",
    "failure_code",
    "cached",
    "decode_ms",
    "model_ms",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Rows of one batch, both ends included, among which there may be outcomes of the time that was asked for."""

    batch: BatchId
    name: str
    first_row: int
    last_row: int


def ledger_now(database: Database) -> float:
    """Seconds since the epoch by the ledger's clock, by which outcomes are dated."""
    with database.reading() as connection:
        return float(connection.scalar(select(db_now())) or 0.0)


def spans_between(database: Database, since: float, until: float) -> list[Span]:
    """Where to look for outcomes that were judged from `since` to before `until`, in the order of batches and rows.

    Neighbouring chunks are one span, so that is a few a batch. Raises LedgerUnavailable.
    """
    judged = chunks.c.yes + chunks.c.no + chunks.c.maybe + chunks.c.failed
    query = (
        select(chunks.c.batch, batches.c.name, chunks.c.first_row, chunks.c.last_row)
        .join(batches, batches.c.id == chunks.c.batch)
        .where(batches.c.created_at < until, judged > 0)
        # A chunk whose failures are judged again has the time at which it was done before.
        .where(or_(chunks.c.state != ChunkState.DONE, chunks.c.done_at >= since - SLACK_S))
        .order_by(chunks.c.batch, chunks.c.number)
    )
    spans: list[Span] = []
    with database.reading() as connection:
        for batch, name, first, last in connection.execute(query):
            begins = int(first)
            if spans and spans[-1].batch == batch and spans[-1].last_row + 1 == begins:
                begins = spans.pop().first_row
            spans.append(Span(batch=BatchId(batch), name=str(name), first_row=begins, last_row=int(last)))
    return spans


def outcomes_between(
    database: Database, span: Span, since: float, until: float, *, page: int = PAGE
) -> Iterator[OutcomeRow]:
    """The span's outcomes of that time with their pairs, in row order. Raises LedgerUnavailable."""
    same_pair = and_(pairs.c.batch == outcomes.c.batch, pairs.c.row == outcomes.c.row)
    query = select(outcomes, *(pairs.c[name] for name in PAIR_COLUMNS)).join(pairs, same_pair)
    # PostgreSQL would merge the two from the batch's first pair on, for each page anew, if only outcomes had bounds.
    query = query.where(pairs.c.batch == span.batch, pairs.c.row >= bindparam("first"), pairs.c.row <= span.last_row)
    return map(outcome_row, _pages(database, query, span, _then(since, until), page))


def facts_between(
    database: Database, span: Span, since: float, until: float, *, page: int = 10 * PAGE
) -> Iterator[Mapping[str, Any]]:
    """The same outcomes without their texts: the columns FACTS."""
    query = select(outcomes.c.row, *(outcomes.c[name] for name in FACTS))
    return _pages(database, query, span, _then(since, until), page)


def _then(since: float, until: float) -> ColumnElement[bool]:
    return and_(outcomes.c.judged_at >= since, outcomes.c.judged_at < until)


def _pages(
    database: Database, query: Select[Any], span: Span, then: ColumnElement[bool], page: int
) -> Iterator[Mapping[str, Any]]:
    here = and_(outcomes.c.batch == span.batch, outcomes.c.row.between(bindparam("first"), span.last_row))
    query = query.where(here, then).order_by(outcomes.c.row).limit(page)
    first = span.first_row
    while True:
        with database.reading() as connection:
            rows = [dict(row) for row in connection.execute(query, {"first": first}).mappings()]
        yield from rows
        if len(rows) < page:
            return
        first = rows[-1]["row"] + 1
