"""The checker: holds the ledger against the driver's own list, and says in words what does not hold."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from traceback import extract_tb
from typing import Any

from audit.pair import BatchId
from audit.settings import Settings
from db.engine import open_database
from db.queries import progress
from tests.chaos.truth import Acknowledged, Expected, Truth
from tests.support.running import check_promises

SAME = 1e-9
DEATHS = frozenset({"worker_died", "timed_out", "decoder_crashed"})
ROWS = (
    "SELECT p.id, p.row, o.label, o.p_yes, o.p_no, o.p_maybe, o.failure_code"
    " FROM pairs p LEFT JOIN outcomes o ON o.batch = p.batch AND o.row = p.row WHERE p.batch = {batch} ORDER BY p.row"
)
CHUNKS = "SELECT number, first_row FROM chunks WHERE batch = {batch} ORDER BY first_row"
HOMELESS = (
    "SELECT o.batch, o.row FROM outcomes o LEFT JOIN pairs p ON p.batch = o.batch AND p.row = o.row WHERE p.row IS NULL"
)


@dataclass(slots=True, kw_only=True)
class Findings:
    """What does not hold, by kind; empty when all holds. `excused` are killers that the driver's own kill named."""

    found: dict[str, list[str]] = field(default_factory=dict)
    excused: list[str] = field(default_factory=list)
    verdicts: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    cancelled: int = 0

    def add(self, kind: str, what: str) -> None:
        """One more."""
        self.found.setdefault(kind, []).append(what)


def check(settings: Settings, truth: Truth, *, tolerance: float = SAME) -> Findings:
    """Every acknowledged pair has exactly the outcome that it is owed, and there is nothing else.

    Kinds: `lost`, `doubled`, `strange` (nobody submitted it), `wrong` (another verdict), `blamed` (an innocent pair
    failed), `spared` (a killer got a verdict), `miscoded` (it failed as something else), `unfinished`, `promises`.
    """
    findings = Findings()
    database = open_database(settings.ledger_url)
    try:
        with database.reading() as connection:

            def ask(statement: str) -> list[dict[str, Any]]:
                return [dict(row) for row in connection.exec_driver_sql(statement).mappings()]

            for row in ask(HOMELESS):
                findings.add("strange", f"batch {row['batch']}, row {row['row']}: an outcome without a pair")
            known = {one.batch for one in truth.acknowledged}
            for row in ask("SELECT id, name FROM batches"):
                if row["id"] not in known:
                    findings.add("strange", f"batch {row['id']} ({row['name']}) was never acknowledged")
            for batch in truth.acknowledged:
                starts = ask(CHUNKS.format(batch=batch.batch))
                struck = frozenset(chunk for number, chunk in truth.struck if number == batch.batch)
                desk = _Desk(findings=findings, batch=batch, starts=starts, struck=struck, tolerance=tolerance)
                desk.check(ask(ROWS.format(batch=batch.batch)))
        for batch in truth.acknowledged:
            seen = progress(database, BatchId(batch.batch))
            findings.cancelled += seen.cancelled
            if seen.state != "done" and not (batch.cancelled and seen.state == "cancelled"):
                findings.add("unfinished", f"{batch.name}: {seen.state}, {dict(seen.chunks)}")
            try:
                check_promises(settings, BatchId(batch.batch))
            except AssertionError as error:
                findings.add("promises", f"{batch.name}: {extract_tb(error.__traceback__)[-1].line}")
    finally:
        database.close()
    return findings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Desk:
    """One batch on the checker's desk."""

    findings: Findings
    batch: Acknowledged
    starts: Sequence[Mapping[str, Any]]  # of chunks, by first row
    struck: frozenset[int]
    tolerance: float

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Hold the batch's pairs, with what outcomes they have, against what is owed."""
        batch, findings = self.batch, self.findings
        outcomes: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            has_outcome = row["label"] is not None or row["failure_code"] is not None
            outcomes.setdefault(row["id"], []).extend([row] if has_outcome else [])
        for pair in outcomes.keys() - batch.expected.keys():
            findings.add("strange", f"{batch.name}/{pair}: nobody submitted it")
        for pair, expected in batch.expected.items():
            told = outcomes.get(pair)
            if not told and not (batch.cancelled and told is not None):
                findings.add("lost", f"{batch.name}/{pair}")
            if told and len(told) > 1:
                findings.add("doubled", f"{batch.name}/{pair}")
            for row in told or []:
                self._check_outcome(f"{batch.name}/{pair}", expected, row)

    def _check_outcome(self, pair: str, expected: Expected, row: Mapping[str, Any]) -> None:
        findings, code = self.findings, row["failure_code"]
        if code is None:
            findings.verdicts += 1
        else:
            findings.failures[code] += 1
        if expected.code is None and code is not None:
            findings.add("blamed", f"{pair}: {code}")
        elif expected.code is not None and code is None:
            findings.add("spared", f"{pair}: {row['label']}, not {expected.code}")
        elif expected.code != code:
            # A process that our own signal ended while it had the pair in hand looks as if the pair had ended it.
            if code in DEATHS and self._was_struck(row["row"]):
                findings.excused.append(f"{pair}: {code}, not {expected.code}")
            else:
                findings.add("miscoded", f"{pair}: {code}, not {expected.code}")
        elif code is None and not _same(expected, row, self.tolerance):
            findings.add("wrong", f"{pair}: {row['label']}, not {expected.label}, or other probabilities")

    def _was_struck(self, row: int) -> bool:
        """Whether the driver killed a process that had this row's chunk in hand."""
        place = bisect_right(self.starts, row, key=lambda chunk: chunk["first_row"]) - 1
        return place >= 0 and self.starts[place]["number"] in self.struck


def _same(expected: Expected, row: Mapping[str, Any], tolerance: float) -> bool:
    scores = (row["p_yes"], row["p_no"], row["p_maybe"])
    near = all(abs(one - other) <= tolerance for one, other in zip(expected.scores, scores, strict=True))
    return near and bool(row["label"] == expected.label)
