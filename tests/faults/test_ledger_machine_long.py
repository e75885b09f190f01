"""The ledger's machine (tests/db/test_ledger_machine.py) for minutes: what is rare is met, too."""

import pytest

from db.engine import Database
from tests.support.ledger_machine import run_machine


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_hundreds_of_histories_leave_the_ledger_as_the_reference_says(database: Database) -> None:
    """A wrong order that one submission in a thousand meets is met every day.

    Safeguard: the token, the counts made afresh, markers, parking, and what else tells apart who may write what.
    """
    run_machine(database, examples=300, steps=50)
