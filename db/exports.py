"""Outcomes with their pairs, streamed: the columns of the public views, in the order of the manifest.

Read page by page, each in a transaction of its own: a long one would keep SQLite's WAL from being checkpointed, and
PostgreSQL ends one that idles for a minute while somebody pages through the output.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Select, and_, or_, select

from audit.errors import UsageError
from audit.pair import BatchId
from db.codec import row_to_pair
from db.engine import Database
from db.tables import batches, pairs
from db.tables import outcomes as outcomes_table

Order = Literal["row", "p_no"]
PAGE = 1000
PAIR_COLUMNS = ("id", "image", "caption", "premise", "extra", "raw")
SAME_COLUMNS = (
    *("label", "p_yes", "p_no", "p_maybe", "failure_code", "failure_detail", "row", "attempt", "worker", "device"),
    *("model", "model_revision", "engine", "precision", "decode_ms", "model_ms", "image_sha256"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRow:
    """One judged pair: a verdict (label and three probabilities) or a failure (code and detail), and how it came about.

    Texts are exactly the user's own and may hold anything. `judged_at` is ISO 8601 in UTC.
    """

    id: str
    image: str
    caption: str
    premise: str | None
    label: str | None
    p_yes: float | None
    p_no: float | None
    p_maybe: float | None
    flagged: bool
    flags: tuple[str, ...]
    failure_code: str | None
    failure_detail: str | None
    row: int
    attempt: int
    worker: str
    device: str
    model: str
    model_revision: str
    engine: str
    precision: str
    cached: bool
    decode_ms: float | None
    model_ms: float | None
    judged_at: str
    image_sha256: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


def outcomes(
    database: Database, batch: BatchId, *, flagged_only: bool = False, order: Order = "row", page: int = PAGE
) -> Iterator[OutcomeRow]:
    """Every outcome of the batch, `page` rows in memory at a time.

    `order="p_no"` gives verdicts alone, the surest mismatch first; every page sorts anew, so take few rows of it.
    Raises UsageError (`unknown_batch`) at once, LedgerUnavailable at any time.
    """
    with database.reading() as connection:
        if connection.scalar(select(batches.c.id).where(batches.c.id == batch)) is None:
            raise UsageError("unknown_batch", f"there is no batch {batch} in this ledger")
    return _pages(database, _query(batch, flagged_only=flagged_only, order=order).limit(page), order, page)


def _query(batch: BatchId, *, flagged_only: bool, order: Order) -> Select[Any]:
    same_pair = and_(pairs.c.batch == outcomes_table.c.batch, pairs.c.row == outcomes_table.c.row)
    query = (
        select(outcomes_table, *(pairs.c[name] for name in PAIR_COLUMNS))
        .join(pairs, same_pair)
        .where(outcomes_table.c.batch == batch)
    )
    if flagged_only:
        query = query.where(outcomes_table.c.flagged)
    if order == "p_no":
        query = query.where(outcomes_table.c.label.is_not(None))
        return query.order_by(outcomes_table.c.p_no.desc(), outcomes_table.c.row)
    return query.order_by(outcomes_table.c.row)


def _pages(database: Database, query: Select[Any], order: Order, page: int) -> Iterator[OutcomeRow]:
    last: Mapping[str, Any] | None = None
    while True:
        with database.reading() as connection:
            behind = query if last is None else query.where(_behind(last, order))
            rows = [dict(row) for row in connection.execute(behind).mappings()]
        yield from map(outcome_row, rows)
        if len(rows) < page:
            return
        last = rows[-1]


def _behind(last: Mapping[str, Any], order: Order) -> Any:
    later = outcomes_table.c.row > last["row"]
    if order == "row":
        # Both: PostgreSQL would merge the two from the batch's first pair on, for each page anew.
        return and_(later, pairs.c.row > last["row"])
    p_no = outcomes_table.c.p_no
    return or_(p_no < last["p_no"], and_(p_no == last["p_no"], later))


def outcome_row(row: Mapping[str, Any]) -> OutcomeRow:
    """A row of `outcomes` with PAIR_COLUMNS of its pair."""
    pair = row_to_pair(row)
    return OutcomeRow(
        id=pair.id,
        image=pair.image,
        caption=pair.caption,
        premise=pair.premise,
        extra=dict(pair.extra or {}),
        flagged=bool(row["flagged"]),
        cached=bool(row["cached"]),
        flags=tuple(row["flags"].split()),
        judged_at=_iso(row["judged_at"]),
        **{name: row[name] for name in SAME_COLUMNS},
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def extra_keys(database: Database, batch: BatchId, *, page: int = 10 * PAGE) -> list[str]:
    """The names of the batch's extra columns, in the order in which they first appear; reads every pair."""
    columns = (pairs.c[name] for name in ("row", *PAIR_COLUMNS))
    query = select(*columns).where(pairs.c.batch == batch, pairs.c.extra.is_not(None)).order_by(pairs.c.row).limit(page)
    keys: dict[str, None] = {}
    last = -1
    while True:
        with database.reading() as connection:
            rows = [dict(row) for row in connection.execute(query.where(pairs.c.row > last)).mappings()]
        for row in rows:
            keys.update(dict.fromkeys(row_to_pair(row).extra or {}))
        if len(rows) < page:
            return list(keys)
        last = rows[-1]["row"]
