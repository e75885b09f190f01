"""The SQL behind a batch's report: each statement is shown to the reader exactly as it ran.

They read the public views, and `chunks` for what has no outcome yet. Aggregation is the database's work, so memory does
not grow with the batch. A statement holds the batch's number as digits and nothing else that anybody could choose.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from audit.pair import BatchId
from db.engine import Database
from db.tables import batches, pairs

CONFIDENCE_EDGES = (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Bins of the winning probability, which is at least 1/3."""
MS_EDGES = (
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700),
    *(1_000, 1_500, 2_000, 3_000, 5_000, 7_000, 10_000, 15_000, 20_000, 30_000, 50_000, 70_000),
)
"""Bins of times, six a decade."""
STAGES = ("decode", "model")
PERCENTILES = (50, 95, 99)
SAMPLES_A_CODE = 3
FAILURES_SHOWN_AT_MOST = 200
_WINNER = "CASE label WHEN 'Yes' THEN p_yes WHEN 'No' THEN p_no ELSE p_maybe END"

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A statement as it ran, and what it gave."""

    sql: str
    rows: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportAnswers:
    """All of a batch's answers, of one consistent state of the ledger.

    `references` maps rows of the flagged pairs to their pictures, exactly as the manifest names them; the views show
    names that SQL cannot hold with escapes.
    """

    answers: Mapping[str, Answer]
    image_root: str
    references: Mapping[int, str]


def ask_for_report(database: Database, batch: BatchId, *, flagged: int) -> ReportAnswers:
    """Run every statement in one read transaction; `flagged` is how many flagged pairs to fetch, the surest first.

    The batch must exist. Seconds a million pairs; SQLite's WAL is not checkpointed meanwhile. Raises LedgerUnavailable.
    """
    with database.reading() as connection, _sorting_on_disk(connection):
        statements = report_statements(batch, sqlite=database.is_sqlite, flagged=flagged)
        answers = {name: Answer(sql=sql, rows=_rows(connection, sql)) for name, sql in statements.items()}
        root = connection.scalar(select(batches.c.image_root).where(batches.c.id == batch))
        references = _references(connection, batch, answers["flagged"].rows)
        return ReportAnswers(answers=answers, image_root=str(root), references=references)


def report_statements(batch: BatchId, *, sqlite: bool, flagged: int) -> dict[str, str]:
    """Every statement by its name, ready to paste into sqlite3 or psql."""
    here = f"WHERE batch = {int(batch)}"
    return {
        "counts": _counts(here),
        "judged_with": _judged_with(here),
        "confidence": _confidence(here),
        **{f"{stage}_times": _times(here, stage) for stage in STAGES},
        **{f"{stage}_histogram": _histogram(here, stage) for stage in STAGES},
        "flags": _flags(here, "instr(rest, ' ')" if sqlite else "strpos(rest, ' ')"),
        "failures": _failures(here),
        "failure_samples": _failure_samples(here),
        "flagged": _flagged(here, flagged),
    }


@contextmanager
def _sorting_on_disk(connection: Connection) -> Iterator[None]:
    """Let SQLite sort in files, as PostgreSQL does: ten million times would take a gigabyte of memory."""
    if connection.dialect.name != "sqlite":
        yield
        return
    before = int(connection.exec_driver_sql("PRAGMA temp_store").scalar() or 0)
    connection.exec_driver_sql("PRAGMA temp_store = FILE")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"PRAGMA temp_store = {before}")


def _rows(connection: Connection, sql: str) -> Rows:
    # As it is shown. No statement has a `%`, which the driver of PostgreSQL would take for a parameter.
    return [dict(row) for row in connection.exec_driver_sql(sql).mappings()]


def _references(connection: Connection, batch: BatchId, flagged: Rows) -> dict[int, str]:
    known = {int(row["row"]): str(row["image"]) for row in flagged}
    query = select(pairs.c.row, pairs.c.raw).where(pairs.c.batch == batch, pairs.c.raw.is_not(None))
    for row, raw in connection.execute(query.where(pairs.c.row.in_(list(known)))):
        known[int(row)] = str(json.loads(raw)["image"])
    return known


def _counts(here: str) -> str:
    sums = ",\n       ".join(
        f"coalesce(sum({name}), 0) AS {name}" for name in ("yes", "no", "maybe", "failed", "flagged")
    )
    return (
        f"SELECT coalesce(sum(pairs), 0) AS submitted,\n       {sums},\n"
        "       coalesce(sum(CASE WHEN state = 'cancelled' THEN pairs - yes - no - maybe - failed ELSE 0 END), 0)"
        " AS cancelled,\n"
        "       coalesce(sum(CASE WHEN state <> 'cancelled' THEN pairs - yes - no - maybe - failed ELSE 0 END), 0)"
        f" AS remaining\nFROM chunks\n{here};"
    )


def _judged_with(here: str) -> str:
    return (
        "SELECT model, model_revision, engine, precision, device, count(*) AS verdicts,\n"
        f"       sum(CASE WHEN cached THEN 1 ELSE 0 END) AS cached\nFROM verdicts\n{here}\n"
        "GROUP BY model, model_revision, engine, precision, device\n"
        "ORDER BY verdicts DESC, model, model_revision, engine, precision, device;"
    )


def _confidence(here: str) -> str:
    return (
        f"SELECT label, {_bins('confidence', CONFIDENCE_EDGES)} AS bin, count(*) AS pairs\n"
        f"FROM (SELECT label, {_WINNER} AS confidence\n      FROM verdicts\n      {here}) AS winners\n"
        "GROUP BY label, bin\nORDER BY label, bin;"
    )


def _times(here: str, stage: str) -> str:
    """Nearest-rank percentiles: the smallest time that at least so many per cent of the times do not exceed."""
    percentiles = "".join(
        f"       min(CASE WHEN place * 100 >= total * {percent} THEN ms END) AS p{percent},\n"
        for percent in (50, 95, 99)
    )
    return (
        f"SELECT count(*) AS pairs, avg(ms) AS mean,\n{percentiles}       max(ms) AS most\n"
        f"FROM (SELECT {stage}_ms AS ms, row_number() OVER (ORDER BY {stage}_ms) AS place, count(*) OVER () AS total\n"
        f"      FROM verdicts\n      {here} AND {stage}_ms IS NOT NULL) AS ranked;"
    )


def _histogram(here: str, stage: str) -> str:
    return (
        f"SELECT {_bins(f'{stage}_ms', MS_EDGES)} AS bin, count(*) AS pairs\n"
        f"FROM verdicts\n{here} AND {stage}_ms IS NOT NULL\nGROUP BY bin\nORDER BY bin;"
    )


def _bins(value: str, edges: Sequence[float]) -> str:
    """The number of the bin, counted from 0; a CASE, because rounding differs between the two databases."""
    arms = [f"WHEN {value} < {edge} THEN {number}" for number, edge in enumerate(edges)]
    lines = [" ".join(arms[start : start + 4]) for start in range(0, len(arms), 4)]
    return "CASE " + "\n            ".join(lines) + f"\n            ELSE {len(edges)} END"


def _flags(here: str, first_blank: str) -> str:
    return (
        "WITH RECURSIVE one(flag, rest, pairs) AS (\n"
        f"  SELECT '', flags || ' ', count(*) FROM verdicts {here} AND flags <> '' GROUP BY flags\n"
        "  UNION ALL\n"
        f"  SELECT substr(rest, 1, {first_blank} - 1), substr(rest, {first_blank} + 1), pairs\n"
        "  FROM one WHERE rest <> ''\n"
        ")\nSELECT flag, sum(pairs) AS pairs FROM one WHERE flag <> '' GROUP BY flag ORDER BY pairs DESC, flag;"
    )


def _failures(here: str) -> str:
    return (
        f"SELECT failure_code, count(*) AS pairs\nFROM failures\n{here}\n"
        "GROUP BY failure_code\nORDER BY pairs DESC, failure_code;"
    )


def _failure_samples(here: str) -> str:
    columns = "failure_code, id, image, failure_detail"
    return (
        f"SELECT {columns}\nFROM (SELECT {columns}, failures.row AS place,\n"
        "             row_number() OVER (PARTITION BY failure_code ORDER BY failures.row) AS sample\n"
        f"      FROM failures\n      {here}) AS numbered\n"
        f"WHERE sample <= {SAMPLES_A_CODE}\nORDER BY failure_code, place\nLIMIT {FAILURES_SHOWN_AT_MOST};"
    )


def _flagged(here: str, limit: int) -> str:
    return (
        "SELECT flagged_mismatches.row, id, image, caption, premise, label, p_yes, p_no, p_maybe, flags, image_sha256\n"
        f"FROM flagged_mismatches\n{here}\nORDER BY p_no DESC, flagged_mismatches.row\nLIMIT {int(limit)};"
    )
