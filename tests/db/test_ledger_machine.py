"""Everything that can happen to the ledger, in any order, on both databases: it stays what the reference says."""

import pytest

from db.engine import Database
from tests.support.ledger_machine import run_machine


@pytest.mark.timeout(900)  # it takes seconds, but for one that fails and is shrunk
def test_whatever_happens_in_whatever_order_the_ledger_is_as_the_reference_says(database: Database) -> None:
    """Faults meet in ways that nobody thinks of: a cancel between a death and a late record, a retry of a parked chunk.

    `make faults` runs hundreds of examples (tests/faults/test_ledger_machine_long.py).
    """
    # PostgreSQL takes several times as long, in round trips; the rules are the same.
    run_machine(database, examples=60 if database.is_sqlite else 15, steps=40)
