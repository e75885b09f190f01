"""The ledger's machine (tests/db/test_ledger_machine.py) for minutes: what is rare is met, too."""

import pytest

from db.engine import Database
from tests.support.ledger_machine import run_machine


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_hundreds_of_histories_leave_the_ledger_as_the_reference_says(database: Database) -> None:
    """A wrong order that one submission in a thousand meets is met every day.

    Safeguard: the token of record and renew; counts made afresh; a pair keeps the outcome it has; markers; the deaths
    that name a pair and those that park a chunk; what a release charges; a cancel leaves done chunks alone.
    """
    run_machine(database, examples=400 if database.is_sqlite else 100, steps=60)
