"""Everything that can happen to the ledger, in any order, on both databases: it stays what the reference says."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from sqlalchemy import event

from db.engine import Database
from tests.support.ledger_machine import run_machine
from tests.support.staff import Staff

HURRY = {"sqlite": "PRAGMA synchronous=OFF", "postgresql": "SET synchronous_commit=off"}
"""No power cut happens here, and a commit that does not wait for the disk takes a tenth of the time."""


@pytest.fixture
def staff() -> Iterator[Staff]:
    workers = Staff()
    yield workers
    workers.close()


@pytest.mark.parametrize(
    ("examples", "steps"),
    [
        pytest.param(30, 30, id="some"),
        pytest.param(300, 60, id="many", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
def test_whatever_happens_in_whatever_order_the_ledger_is_as_the_reference_says(
    database: Database, staff: Staff, examples: int, steps: int
) -> None:
    """Faults meet in ways that nobody thinks of: a cancel between a death and a late record, a retry of a parked chunk.

    Safeguard: all of them; the machine fails without the token check, the recount, the marker, parking and others.
    """

    @event.listens_for(database.engine, "connect")
    def hurry(connection: Any, _: object) -> None:
        connection.execute(HURRY[database.engine.dialect.name])
        connection.commit()

    limits = settings(max_examples=examples, stateful_step_count=steps, print_blob=True, derandomize=False)
    run_machine(database, staff, limits)
