"""Everything that can happen to the ledger, in any order, on both databases: it stays what the reference says."""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from db.engine import Database
from tests.support.ledger_machine import LedgerMachine
from tests.support.staff import Staff

SOME = settings(max_examples=8, stateful_step_count=30, print_blob=True, derandomize=False)


@pytest.fixture
def staff() -> Iterator[Staff]:
    workers = Staff()
    yield workers
    workers.close()


def test_whatever_happens_in_whatever_order_the_ledger_is_as_the_reference_says(
    database: Database, staff: Staff
) -> None:
    """Faults meet in ways that nobody thinks of: a cancel between a death and a late record, a retry of a parked chunk.

    Safeguard: all of them; the machine fails without the token check, the recount, the marker, parking and others.
    """
    run_state_machine_as_test(lambda: LedgerMachine(database, staff), settings=SOME)
