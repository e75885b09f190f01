"""What can be wrong with a single row of the ledger, as conditions in SQL: counted for a chunk, then looked up."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, false, func, or_, select, true

from audit.policy import Policy
from audit.verdict import Label
from db.tables import ChunkState, chunks, failure_history, outcomes, pairs, retries, suspects

EXAMPLES = 5
"""Rows that a finding names; the others are counted."""
CLOCK_S = 60.0
"""How far times may be ahead of the database's clock, which may have been set back meanwhile."""
SCORES_OFF = 0.001
"""How far three stored probabilities may be from 1; the table's own CHECK says the same."""
COUNTED = ("yes", "no", "maybe", "failed", "flagged")


def outcome_faults(policy: Policy | None, now: float) -> Mapping[str, ColumnElement[bool]]:
    """Conditions that must hold for every outcome, by the kind of finding otherwise; NULL counts as broken.

    With a policy that cannot be read the flags are not looked at.
    """
    it = outcomes.c
    failed = it.label.is_(None)
    scores = (it.p_yes, it.p_no, it.p_maybe)
    nothing = and_(*(score.is_(None) for score in scores))
    total = it.p_yes + it.p_no + it.p_maybe
    # Comparisons, not arithmetic: PostgreSQL's NaN is larger than every number, SQLite stores it as NULL.
    probable = and_(
        *(score.between(0.0, 1.0 + SCORES_OFF) for score in scores), total.between(1 - SCORES_OFF, 1 + SCORES_OFF)
    )
    refused = and_(failed, it.engine == "none")  # at submission: no model was asked
    holds = {
        "verdict_and_failure": or_(
            and_(it.label.is_not(None), it.failure_code.is_(None), it.failure_detail.is_(None)),
            and_(failed, nothing, it.failure_code.is_not(None), it.failure_detail.is_not(None)),
        ),
        "bad_scores": or_(failed, probable),
        "wrong_label": or_(failed, it.label == _winner()),
        "bad_attempt": it.attempt >= case((failed, 0), else_=1),
        "nameless": and_(it.worker != "", or_(refused, and_(it.model != "", it.model_revision != ""))),
        "from_the_future": it.judged_at <= now + CLOCK_S,
        "outcome_without_pair": pairs.c.row.is_not(None),
    }
    return (
        holds
        if policy is None
        else {**holds, "wrong_flag": it.flagged == case((_flags(policy), true()), else_=false())}
    )


def _winner() -> ColumnElement[str]:
    """The label of Scores.label, written a second time: what is checked is not asked how to check it."""
    yes, no, maybe = outcomes.c.p_yes, outcomes.c.p_no, outcomes.c.p_maybe
    return case(
        (and_(no >= maybe, no >= yes), Label.NO.value),
        (maybe >= yes, Label.MAYBE.value),
        else_=Label.YES.value,
    )


def _flags(policy: Policy) -> ColumnElement[bool]:
    by_label = outcomes.c.label.in_(sorted(label.value for label in policy.labels))
    if policy.p_no_at_least is None:
        return and_(outcomes.c.label.is_not(None), by_label)
    return and_(outcomes.c.label.is_not(None), or_(by_label, outcomes.c.p_no >= policy.p_no_at_least))


def look_at_chunks(
    connection: Connection, batch: int, numbers: tuple[int, int], faults: Mapping[str, ColumnElement[bool]]
) -> Sequence[Mapping[str, Any]]:
    """Each chunk from the first to the last number: its columns, `held` pairs, and `found` counts of its outcomes.

    `found` is a list: the counts of COUNTED, all outcomes, then the broken ones for each of `faults` in their order.
    """
    of_pairs = select(func.count()).where(pairs.c.batch == chunks.c.batch, _inside(pairs)).correlate(chunks)
    query = (
        select(chunks, of_pairs.scalar_subquery().label("held"), _found(connection, faults).label("found"))
        .where(chunks.c.batch == batch, chunks.c.number.between(*numbers))
        .order_by(chunks.c.number, chunks.c.first_row)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def _found(connection: Connection, faults: Mapping[str, ColumnElement[bool]]) -> Any:
    """Counts as one JSON list: a subquery gives one value, and as a subquery it reads the chunk's rows by their key.

    A join of chunks with outcomes by row range leaves that to the planner, and LATERAL is PostgreSQL's alone.
    """
    it = outcomes.c
    labels = [_count(it.label == label.value) for label in (Label.YES, Label.NO, Label.MAYBE)]
    known = [*labels, _count(it.label.is_(None)), _count(it.flagged), func.count()]
    broken = [func.coalesce(func.sum(case((holds, 0), else_=1)), 0) for holds in faults.values()]
    packed = func.json_array if connection.dialect.name == "sqlite" else func.json_build_array
    of_outcomes = outcomes.outerjoin(pairs, and_(pairs.c.batch == it.batch, pairs.c.row == it.row))
    counted = select(packed(*known, *broken)).select_from(of_outcomes)
    return counted.where(it.batch == chunks.c.batch, _inside(outcomes)).correlate(chunks).scalar_subquery()


def _count(condition: ColumnElement[bool]) -> Any:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _inside(table: Any) -> ColumnElement[bool]:
    return and_(table.c.row >= chunks.c.first_row, table.c.row <= chunks.c.last_row)


def broken_rows(
    connection: Connection, batch: int, rows: tuple[int, int], holds: ColumnElement[bool]
) -> tuple[int, ...]:
    """The first outcomes within these rows for which the condition does not hold."""
    joined = outcomes.outerjoin(pairs, and_(pairs.c.batch == outcomes.c.batch, pairs.c.row == outcomes.c.row))
    within = (outcomes.c.batch == batch, outcomes.c.row.between(*rows), case((holds, 0), else_=1) == 1)
    query = select(outcomes.c.row).select_from(joined).where(*within).order_by(outcomes.c.row).limit(EXAMPLES)
    return tuple(connection.scalars(query))


def unjudged_rows(connection: Connection, batch: int, rows: tuple[int, int]) -> tuple[int, ...]:
    """The first pairs within these rows that have no outcome."""
    joined = pairs.outerjoin(outcomes, and_(pairs.c.batch == outcomes.c.batch, pairs.c.row == outcomes.c.row))
    within = (pairs.c.batch == batch, pairs.c.row.between(*rows), outcomes.c.row.is_(None))
    query = select(pairs.c.row).select_from(joined).where(*within).order_by(pairs.c.row).limit(EXAMPLES)
    return tuple(connection.scalars(query))


def rows_between(connection: Connection, table: Any, batch: int, rows: tuple[int, int]) -> tuple[int, tuple[int, ...]]:
    """How many rows of `pairs` or `outcomes` lie there, and the first of them."""
    within = (table.c.batch == batch, table.c.row.between(*rows))
    count = connection.scalar(select(func.count()).select_from(table).where(*within)) or 0
    if not count:
        return 0, ()
    return count, tuple(connection.scalars(select(table.c.row).where(*within).order_by(table.c.row).limit(EXAMPLES)))


def look_at_small_tables(connection: Connection, batch: int, now: float) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Kind of finding, count and first rows for what is wrong in `suspects`, `retries` and `failure_history`."""
    for kind, table, query in _small_tables(now):
        found = query.where(table.c.batch == batch)
        count = connection.scalar(select(func.count()).select_from(found.subquery())) or 0
        if count:
            yield kind, count, tuple(connection.scalars(found.order_by(table.c.row).limit(EXAMPLES)))


def _small_tables(now: float) -> Iterator[tuple[str, Any, Select[tuple[int]]]]:
    late = now + CLOCK_S
    yield "suspect_without_pair", suspects, _beside(suspects, pairs).where(pairs.c.row.is_(None))
    its_chunk = and_(chunks.c.batch == suspects.c.batch, _inside(suspects))
    finished = select(suspects.c.row).join(chunks, its_chunk).where(chunks.c.state == ChunkState.DONE)
    yield "suspect_in_done_chunk", suspects, finished
    yield "from_the_future", suspects, select(suspects.c.row).where(suspects.c.died_at > late)
    # A retried pair keeps its failure until the new outcome replaces it.
    yield "retry_without_failure", retries, _beside(retries, outcomes).where(outcomes.c.failure_code.is_(None))
    yield "from_the_future", retries, select(retries.c.row).where(retries.c.asked_at > late)
    history = failure_history
    replaced = _beside(history, outcomes)
    yield "history_without_outcome", history, replaced.where(outcomes.c.row.is_(None))
    too_new = or_(
        history.c.judged_at > history.c.replaced_at + CLOCK_S, history.c.replaced_at > outcomes.c.judged_at + CLOCK_S
    )
    yield "history_too_new", history, replaced.where(too_new)
    yield "from_the_future", history, select(history.c.row).where(history.c.replaced_at > late)


def _beside(table: Any, other: Any) -> Select[tuple[int]]:
    same = and_(other.c.batch == table.c.batch, other.c.row == table.c.row)
    return select(table.c.row).select_from(table.outerjoin(other, same))
