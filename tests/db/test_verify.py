"""Verifying a ledger: sound ones pass at any moment, and each way to break one is found, and nothing else is."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import event, insert, text

from audit.pair import BatchId, Pair, Row
from audit.verdict import Outcome, Scores, Verdict
from db import tables
from db.cancel import cancel_batch
from db.claim import Refusal
from db.engine import Database, open_database
from db.lease import mark, release
from db.queries import progress
from db.record import record
from db.register import open_batch
from db.sweep import Rules, sweep
from db.verify import Finding, Seen, known_batches, verify_batch
from db.verify_whole import verify_catalogue, verify_file, verify_orphans
from tests.support.claims import attempt, batch_of, broken, claimant, dead_process, no, take, yes
from tests.support.registering import entry, registered

Found = set[tuple[str, int | None]]


@pytest.fixture
def batch(database: Database) -> BatchId:
    """Four chunks of four rows: done, running (one pair is missing, one has failed), done, pending."""
    entries = [entry(row) for row in range(16)]
    entries[5] = entry(5, failure="it has no image")
    entries[6] = entry(6, "p2")  # repeats an earlier pair, and leaves a gap
    made = registered(database, entries)
    open_batch(database, made)
    for number in (0, 2):
        held = take(database, made, number)
        first, second, third, fourth = held.pairs
        record(database, held, [yes(first), no(second), yes(third), broken(fourth)])
    held = take(database, made, 1)
    record(database, held, [yes(held.pairs[0])])
    return made


def hand_edited(database: Database, *statements: str) -> None:
    """Run what the ledger's own connections forbid: on SQLite without foreign keys and CHECKs."""
    if database.is_sqlite:
        with closing(sqlite3.connect(str(database.engine.url.database))) as file:
            for pragma in ("ignore_check_constraints = ON", "legacy_alter_table = ON"):
                file.execute(f"PRAGMA {pragma}")
            for statement in statements:
                file.execute(statement)
            file.commit()
        return
    with database.engine.connect() as connection, connection.begin():
        for statement in statements:
            connection.exec_driver_sql(statement)


def whole(database: Database) -> list[Finding]:
    """What is found in the ledger but for its batches."""
    return [*verify_catalogue(database), *verify_orphans(database), *verify_file(database)]


def found(database: Database, batch: BatchId) -> Found:
    return {(finding.kind, finding.chunk) for finding in verify_batch(database, batch)}


def test_a_sound_ledger_has_no_findings(database: Database, batch: BatchId) -> None:
    """A checker that cries wolf is switched off."""
    told: list[Seen] = []
    assert [*verify_batch(database, batch, told=told.append), *whole(database)] == []
    (seen,) = told
    assert (seen.submitted, seen.verdicts, seen.failures, seen.cancelled, seen.remaining) == (15, 7, 3, 0, 5)
    assert (seen.chunks, seen.state, known_batches(database)) == (4, "open", {batch: 15})


BREAKS: dict[str, tuple[str, Found]] = {
    "a count": ("UPDATE chunks SET yes = yes + 1 WHERE number = 0", {("wrong_counts", 0)}),
    "counts of flags": ("UPDATE chunks SET flagged = 0 WHERE number = 2", {("wrong_counts", 2)}),
    "counts that even out": (
        "UPDATE chunks SET yes = yes + 1 - number WHERE number IN (0, 2)",
        {("wrong_counts", 0), ("wrong_counts", 2)},
    ),
    "a lost outcome": (
        "DELETE FROM outcomes WHERE row = 1",
        {("wrong_counts", 0), ("done_without_outcome", 0)},
    ),
    "a lost pair": ("DELETE FROM pairs WHERE row = 1", {("wrong_pairs", 0), ("outcome_without_pair", 0)}),
    "a pair too many": (
        "INSERT INTO pairs (batch, row, id, image, caption) VALUES (1, 99, 'x', 'a', 'b')",
        {("pair_in_no_chunk", None)},
    ),
    "an outcome elsewhere": (
        "UPDATE outcomes SET row = 99 WHERE row = 8",
        {("outcome_in_no_chunk", None), ("wrong_counts", 2), ("done_without_outcome", 2)},
    ),
    "a lost chunk": (
        "DELETE FROM chunks WHERE number = 2",
        {("chunk_missing", 3), ("bad_range", 3), ("pair_in_no_chunk", None), ("outcome_in_no_chunk", None)},
    ),
    "the last chunk": ("DELETE FROM chunks WHERE number = 3", {("pair_in_no_chunk", None)}),
    "chunks that overlap": (
        "UPDATE chunks SET first_row = 3 WHERE number = 1",
        {("bad_range", 1), ("wrong_pairs", 1), ("wrong_counts", 1)},
    ),
    "a reversed range": (
        "UPDATE chunks SET last_row = first_row - 1 WHERE number = 3",
        {("bad_range", 3), ("wrong_pairs", 3), ("pair_in_no_chunk", None)},
    ),
    "a label that is not the winner": (
        "UPDATE outcomes SET label = 'Maybe' WHERE row = 0",
        {("wrong_label", 0), ("wrong_counts", 0)},
    ),
    "a tie told as agreement": (
        "UPDATE outcomes SET p_yes = 0.4, p_no = 0.4, p_maybe = 0.2 WHERE row = 0",
        {("wrong_label", 0)},
    ),
    "a flag": (
        "UPDATE outcomes SET flagged = NOT flagged WHERE row = 1",
        {("wrong_flag", 0), ("wrong_counts", 0)},
    ),
    "another policy": (
        """UPDATE batches SET policy = '{"labels":["No","Yes"],"p_no_at_least":null}'""",
        {("wrong_flag", 0), ("wrong_flag", 1), ("wrong_flag", 2)},
    ),
    "a policy with a threshold": (
        """UPDATE batches SET policy = '{"labels":["No"],"p_no_at_least":0.05}'""",
        {("wrong_flag", 0), ("wrong_flag", 1), ("wrong_flag", 2)},
    ),
    "an unreadable policy": ("UPDATE batches SET policy = '{}'", {("bad_policy", None)}),
    "a batch's state": ("UPDATE batches SET state = 'odd'", {("unknown_state", None)}),
    "a lane": ("UPDATE batches SET lane = 'odd'", {("unknown_state", None)}),
    "a chunk's state": ("UPDATE chunks SET state = 'odd' WHERE number = 3", {("unknown_state", 3)}),
    "a holder": ("UPDATE chunks SET holder_pid = NULL WHERE number = 1", {("running_without_holder", 1)}),
    "a token": ("UPDATE chunks SET token = NULL WHERE number = 1", {("running_without_holder", 1)}),
    "a lease": ("UPDATE chunks SET lease_until = NULL WHERE number = 1", {("running_without_holder", 1)}),
    "an end": ("UPDATE chunks SET done_at = NULL WHERE number = 0", {("done_without_time", 0)}),
    "a chunk in a cancelled batch": (
        "UPDATE batches SET state = 'cancelled'",
        {("unfinished_in_cancelled", 1), ("unfinished_in_cancelled", 3)},
    ),
    "a cancelled chunk": ("UPDATE chunks SET state = 'cancelled' WHERE number = 3", {("cancelled_in_open", 3)}),
    "a negative count": ("UPDATE chunks SET deaths = -1 WHERE number = 3", {("negative_count", 3)}),
    "a verdict of tomorrow": (
        "UPDATE outcomes SET judged_at = judged_at + 3600 WHERE row = 0",
        {("from_the_future", 0)},
    ),
    "a claim of tomorrow": (
        "UPDATE chunks SET claimed_at = claimed_at + 3600 WHERE number = 1",
        {("from_the_future", 1)},
    ),
    "a batch of tomorrow": ("UPDATE batches SET created_at = created_at + 3600", {("from_the_future", None)}),
    "an attempt": ("UPDATE outcomes SET attempt = 0 WHERE row = 0", {("bad_attempt", 0)}),
    "a worker": ("UPDATE outcomes SET worker = '' WHERE row = 0", {("nameless", 0)}),
    "a model": ("UPDATE outcomes SET model = '' WHERE row = 0", {("nameless", 0)}),
    "a revision": ("UPDATE outcomes SET model_revision = '' WHERE row = 3", {("nameless", 0)}),
    "a suspect that is judged": (
        "INSERT INTO suspects (batch, row, deaths) VALUES (1, 0, 1)",
        {("suspect_in_done_chunk", None)},
    ),
    "a suspect from nowhere": (
        "INSERT INTO suspects (batch, row, deaths) VALUES (1, 99, 1)",
        {("suspect_without_pair", None)},
    ),
}


@pytest.mark.parametrize(("statement", "expected"), BREAKS.values(), ids=BREAKS)
def test_what_was_broken_by_hand_is_found_and_nothing_else(
    database: Database, batch: BatchId, statement: str, expected: Found
) -> None:
    """A checker that misses one way proves nothing about it; one that blames neighbours sends people astray."""
    assert batch == 1
    changed = database.transact(lambda connection: connection.exec_driver_sql(statement).rowcount)
    assert changed
    assert found(database, batch) == expected


FORBIDDEN: dict[str, tuple[str, Found]] = {
    "a sum": ("UPDATE outcomes SET p_yes = 0.5 WHERE row = 0", {("bad_scores", 0)}),
    "a negative score": ("UPDATE outcomes SET p_yes = 1.0, p_no = -0.1 WHERE row = 0", {("bad_scores", 0)}),
    "an infinite score": ("UPDATE outcomes SET p_yes = 9e999 WHERE row = 0", {("bad_scores", 0)}),
    "no score": ("UPDATE outcomes SET p_maybe = NULL WHERE row = 0", {("bad_scores", 0)}),
    "an unknown label": (
        "UPDATE outcomes SET label = 'Perhaps' WHERE row = 0",
        {("wrong_label", 0), ("wrong_counts", 0)},
    ),
    "a verdict that is a failure": (
        "UPDATE outcomes SET failure_code = 'x', failure_detail = 'y' WHERE row = 0",
        {("verdict_and_failure", 0)},
    ),
    "neither": ("UPDATE outcomes SET failure_code = NULL WHERE row = 11", {("verdict_and_failure", 2)}),
    "a failure that is flagged": (
        "UPDATE outcomes SET flagged = NOT flagged WHERE row = 11",
        {("wrong_flag", 2), ("wrong_counts", 2)},
    ),
}


@pytest.mark.parametrize(("statement", "expected"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_the_constraints_forbid_is_found_where_they_were_missing(
    database: Database, batch: BatchId, statement: str, expected: Found
) -> None:
    """A copy that was made with CREATE TABLE AS has no CHECK any more, and takes anything."""
    if not database.is_sqlite:
        checks = ("verdict_or_failure", "scores_sum_to_one")
        hand_edited(database, *(f"ALTER TABLE outcomes DROP CONSTRAINT {name}" for name in checks))
        statement = statement.replace("9e999", "'Infinity'")
    hand_edited(database, statement)
    assert found(database, batch) == expected


def test_a_score_that_is_no_number_is_found(postgres_url: str) -> None:
    """PostgreSQL's NaN is larger than every number and equal to itself: some comparisons let it pass."""
    opened = open_database(postgres_url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        made = batch_of(opened, 4)
        held = take(opened, made)
        record(opened, held, [yes(pair) for pair in held.pairs])
        with opened.engine.connect() as connection, connection.begin():
            connection.execute(text("ALTER TABLE outcomes DROP CONSTRAINT scores_sum_to_one"))
            connection.execute(text("UPDATE outcomes SET p_yes = 'NaN' WHERE row = 2"))
        (finding,) = verify_batch(opened, made)
        assert finding == Finding(kind="bad_scores", detail="", batch=made, chunk=finding.chunk, count=1, rows=(2,))
    finally:
        opened.close()


def add(database: Database, table: Any, **values: Any) -> None:
    """One row, with a value for every column that must have one."""
    filled: dict[str, Any] = {column.name: "x" for column in table.columns if not column.nullable}
    filled |= {"attempt": 1, "chunk": 0, "batch": 1, "judged_at": 1.0, "asked_at": 1.0, "replaced_at": 2.0}
    row = {name: value for name, value in (filled | values).items() if name in table.c}
    database.transact(lambda connection: connection.execute(insert(table), row))


def test_retries_and_replaced_failures_belong_to_failures_and_their_outcomes(
    database: Database, batch: BatchId
) -> None:
    """A retried failure stays the outcome until it is replaced; a retry of a verdict would throw the verdict away."""
    add(database, tables.retries, row=3)  # a failure, as it should be
    assert found(database, batch) == set()
    add(database, tables.retries, row=0)
    assert found(database, batch) == {("retry_without_failure", None)}
    add(database, tables.retries, row=12)
    (finding,) = verify_batch(database, batch)
    assert (finding.count, finding.rows) == (2, (0, 12))


def test_history_is_older_than_what_replaced_it(database: Database, batch: BatchId) -> None:
    """The newest outcome is the one that counts; history from later says that an old one was put back."""
    add(database, tables.failure_history, row=0)
    assert found(database, batch) == set()
    add(database, tables.failure_history, row=1, replaced_at=3e9)
    assert found(database, batch) == {("history_too_new", None), ("from_the_future", None)}


def test_history_has_an_outcome(database: Database, batch: BatchId) -> None:
    """The old failure goes in the transaction that brings the new outcome: one without the other was torn."""
    add(database, tables.failure_history, row=13)
    assert found(database, batch) == {("history_without_outcome", None)}


def test_findings_name_the_first_rows_and_count_the_rest(database: Database) -> None:
    """A hundred rows of one kind are one line."""
    made = batch_of(database, 100, chunk_pairs=100)
    held = take(database, made)
    record(database, held, [yes(pair) for pair in held.pairs])
    database.transact(lambda connection: connection.execute(text("UPDATE outcomes SET attempt = 0 WHERE row >= 20")))
    (finding,) = verify_batch(database, made)
    assert (finding.kind, finding.count, finding.rows) == ("bad_attempt", 80, (20, 21, 22, 23, 24))


def test_a_batch_of_many_slices_is_seen_whole(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices bound the memory; what lies at their edges must not fall through."""
    monkeypatch.setattr("db.verify.SLICE_CHUNKS", 3)
    monkeypatch.setattr("db.verify.SLICE_ROWS", 8)
    made = batch_of(database, 41)
    seen: list[int] = []
    assert list(verify_batch(database, made, told=lambda one: seen.append(one.submitted))) == []
    assert seen == [8, 16, 24, 32, 40, 41]
    database.transact(lambda connection: connection.execute(text("DELETE FROM chunks WHERE number IN (2, 6)")))
    assert found(database, made) == {
        *(("chunk_missing", number) for number in (3, 7)),
        *(("bad_range", number) for number in (3, 7)),
        ("pair_in_no_chunk", None),
    }


def rebuilt(database: Database, table: str) -> None:
    """The table as CREATE TABLE AS makes it: with its rows, and without any key, CHECK or index."""
    drop = f"DROP TABLE {table}{'' if database.is_sqlite else ' CASCADE'}"
    copy = f"CREATE TABLE copied AS SELECT * FROM {table}"
    hand_edited(database, copy, drop, f"ALTER TABLE copied RENAME TO {table}")


@pytest.mark.parametrize("table", [table.name for table in tables.metadata.sorted_tables if table.name != "batches"])
def test_keys_and_checks_that_are_gone_are_named(database: Database, table: str) -> None:
    """One outcome a pair is promised by a primary key; a restore without it promises nothing."""
    rebuilt(database, table)
    lost = {finding.detail for finding in verify_catalogue(database) if finding.kind == "constraint_missing"}
    keys = ", ".join(column.name for column in tables.metadata.tables[table].primary_key)
    assert f"PRIMARY KEY ({keys}) of {table}" in lost
    assert ("FOREIGN KEY (batch) of " + table in lost) == bool(tables.metadata.tables[table].foreign_keys)
    if table == "outcomes":
        assert {"CHECK verdict_or_failure of outcomes", "CHECK scores_sum_to_one of outcomes"} <= lost
        assert "NOT NULL of outcomes.worker" in lost
    if table in ("pairs", "chunks"):
        (index,) = (found.detail for found in verify_catalogue(database) if found.kind == "index_missing")
        assert f"INDEX {'pairs_by_id' if table == 'pairs' else 'chunks_by_state'} ON {table}" in index


def test_two_outcomes_of_one_pair_are_found(database: Database, batch: BatchId) -> None:
    """The second sentence of the design: one pair, one outcome."""
    rebuilt(database, "outcomes")
    database.transact(
        lambda connection: connection.execute(text("INSERT INTO outcomes SELECT * FROM outcomes WHERE row = 0"))
    )
    doubles = [finding.detail for finding in verify_catalogue(database) if finding.kind == "double"]
    assert doubles == [f"2 rows of outcomes have batch {batch}, row 0"]
    assert ("wrong_counts", 0) in found(database, batch)


def test_two_pairs_with_one_id_are_found(database: Database, batch: BatchId) -> None:
    """An id is how people find their pair again."""
    database.transact(lambda connection: connection.execute(text("DROP INDEX pairs_by_id")))
    database.transact(lambda connection: connection.execute(text("UPDATE pairs SET id = 'p0' WHERE row = 1")))
    kinds = {finding.kind: finding.detail for finding in verify_catalogue(database)}
    assert kinds.keys() == {"index_missing", "double"}
    assert kinds["double"] == f"2 rows of pairs have batch {batch}, id 'p0', conflict 0"
    assert "CREATE UNIQUE INDEX pairs_by_id ON pairs (batch, id, " in kinds["index_missing"]


def test_missing_tables_and_columns_are_named(database: Database) -> None:
    """A dump of some tables alone restores without a complaint."""
    hand_edited(database, "DROP TABLE feed_credit", "ALTER TABLE chunks DROP COLUMN rank")
    details = {(finding.kind, finding.detail) for finding in verify_catalogue(database)}
    assert details == {("table_missing", "table feed_credit"), ("column_missing", "chunks.rank")}


def test_rows_without_their_batch_are_found(database: Database, batch: BatchId) -> None:
    """They would be taken for those of the next batch with this number."""
    if not database.is_sqlite:
        rebuilt(database, "batches")  # and with it the references of others
    hand_edited(database, "DELETE FROM batches")
    lost = {(each.kind, each.detail, each.count) for each in verify_orphans(database)}
    assert lost == {
        ("without_batch", "in chunks", 4),
        ("without_batch", "in pairs", 15),
        ("without_batch", "in outcomes", 10),
    }
    told = {each.detail for each in verify_file(database)}
    assert told == (
        {f"a row of {table} refers to no row of batches" for table in ("chunks", "pairs", "outcomes")}
        if database.is_sqlite
        else set()
    )


def test_a_damaged_sqlite_file_is_found(sqlite_url: str) -> None:
    """A page that a disk has lost is noticed when it is read, which may be months later."""
    database = open_database(sqlite_url)
    made = batch_of(database, 2000, chunk_pairs=500)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        root = connection.exec_driver_sql("SELECT rootpage FROM sqlite_master WHERE name = 'pairs_by_id'").scalar_one()
        size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")
    database.close()
    path = str(database.engine.url.database)
    with open(path, "r+b") as file:
        file.seek((root - 1) * size + 5)
        file.write(b"\xff\xff\xff")
    again = open_database(sqlite_url)
    try:
        assert {finding.kind for finding in verify_file(again)} == {"file_damaged"}
        assert made
    finally:
        again.close()


SCORES = [
    Scores(p_yes=1 / 3, p_no=1 / 3, p_maybe=1 / 3),
    Scores(p_yes=0.5, p_no=0.0, p_maybe=0.5),
    Scores(p_yes=0.5, p_no=0.5, p_maybe=0.0),
    Scores(p_yes=0.0, p_no=0.5, p_maybe=0.5),
    Scores(p_yes=1.0, p_no=0.0, p_maybe=0.0),
    Scores(p_yes=0.4, p_no=0.35, p_maybe=0.25),
    Scores(p_yes=0.99995, p_no=0.0, p_maybe=0.00009),
]
POLICIES = [
    '{"labels":["No"],"p_no_at_least":null}',
    '{"labels":["Maybe","Yes"],"p_no_at_least":0.35}',
    '{"labels":[],"p_no_at_least":0.5}',
]


@pytest.mark.parametrize("policy", POLICIES)
def test_ties_and_thresholds_are_sound(database: Database, policy: str) -> None:
    """The rules are written twice, here and in SQL; where they differ the checker is wrong, or the product is."""
    made = batch_of(database, len(SCORES), chunk_pairs=10, policy=policy)
    held = take(database, made)

    def outcome(pair: Pair, scores: Scores) -> Outcome:
        return Outcome(row=Row(pair.row), result=Verdict(scores=scores))

    record(database, held, [outcome(pair, scores) for pair, scores in zip(held.pairs, SCORES, strict=True)])
    assert list(verify_batch(database, made)) == []


STEPS = ("claim", "record", "mark", "release", "charge", "die", "sweep", "cancel")


@examples(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12)
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 2), st.integers(1, 3)), max_size=25))
def test_normal_work_never_has_findings(database: Database, steps: list[tuple[str, int, int]]) -> None:
    """At no moment between two transactions of the product may the checker see anything wrong."""
    made = batch_of(database, 10)
    held: dict[int, Any] = {}
    dead = _dead()
    for step, chunk, some in steps:
        if step in ("claim", "die"):
            got = attempt(database, made, chunk, claimant(holder=dead if step == "die" else None))
            if not isinstance(got, Refusal):
                held[chunk] = got
        elif step == "sweep":
            list(sweep(database, Rules(max_deaths=3)))
        elif step == "cancel" and some == 3:
            cancel_batch(database, made)
        elif (claim := held.get(chunk)) is not None:
            pairs = claim.pairs[:some]
            if step == "record":
                kinds = (yes, no, broken)
                record(database, claim, [kinds[(pair.row + some) % 3](pair) for pair in pairs])
            elif step == "mark":
                mark(database, claim, row=pairs[0].row, stage="decode")
            else:
                release(database, claim, charge=step == "charge")
        assert list(verify_batch(database, made)) == [], (step, chunk)
    assert list(verify_orphans(database)) == []


def _dead(known: list[Any] = []) -> Any:  # noqa: B006 - one dead process serves all examples
    if not known:
        known.append(dead_process())
    return known[0]


@pytest.fixture
def judging(database: Database, ledger_url: str) -> Iterator[BatchId]:
    """A batch that a thread with a connection of its own judges, two pairs a transaction, until the test is over."""
    made = batch_of(database, 2000, chunk_pairs=20)
    stop = threading.Event()
    own = open_database(database.engine.url.render_as_string(hide_password=False))

    def judge() -> None:
        for number in range(100):
            held = take(own, made, number)
            for start in range(0, len(held.pairs), 2):
                if stop.is_set():
                    return
                record(own, held, [yes(held.pairs[start]), no(held.pairs[start + 1])])

    thread = threading.Thread(target=judge)
    thread.start()
    yield made
    stop.set()
    thread.join(timeout=60)
    own.close()
    assert not thread.is_alive()


def test_verifying_beside_workers_raises_no_false_alarm(
    database: Database, judging: BatchId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared must be of one moment: counts that are read before and outcomes after a commit differ."""
    monkeypatch.setattr("db.verify.SLICE_CHUNKS", 7)
    for _ in range(6):
        assert list(verify_batch(database, judging)) == []


def test_a_batch_that_is_cancelled_between_two_statements_is_seen_as_it_was(database: Database) -> None:
    """An open batch and its cancelled chunks were never there at one moment, and nothing is wrong with either.

    Safeguard: Database.reading asks PostgreSQL for REPEATABLE READ; SQLite's snapshot is one of itself.
    """
    made = batch_of(database, 40)
    own = open_database(database.engine.url.render_as_string(hide_password=False))
    asked: list[str] = []

    def cancel_meanwhile(*given: Any) -> None:
        if asked or "FROM batches" in given[2]:
            asked.append(given[2])
        if len(asked) == 1:
            cancel_batch(own, made)

    event.listen(database.engine, "after_cursor_execute", cancel_meanwhile)
    try:
        seen = list(verify_batch(database, made))
    finally:
        event.remove(database.engine, "after_cursor_execute", cancel_meanwhile)
        own.close()
    assert len(asked) > 1
    assert progress(database, made).cancelled == 40
    assert seen == []
