"""retry: failures are judged again, as people and scripts ask for it."""

import json
from pathlib import Path

import pytest

from audit.pair import BatchId
from db.cancel import cancel_batch
from db.engine import Database
from db.queries import progress
from db.record import record
from tests.ops.conftest import Cli
from tests.support.claims import batch_of, broken, take, yes


@pytest.fixture
def redis_and_model(redis_url: str, model_directory: Path) -> dict[str, str]:
    return {"REDIS_URL": redis_url, "AUDIT_MODEL": str(model_directory)}


def judged(database: Database) -> BatchId:
    """Two failures and two verdicts."""
    batch = batch_of(database, 4)
    held = take(database, batch)
    record(database, held, [broken(held.pairs[0]), yes(held.pairs[1]), broken(held.pairs[2]), yes(held.pairs[3])])
    return batch


def test_retry_says_how_many_and_where_to_look(cli: Cli, redis_and_model: dict[str, str], ledger: Database) -> None:
    """Exit 0: the wish is in the ledger, whoever is there to fulfil it; asked again, nothing is doubled."""
    batch = judged(ledger)
    first, second = cli("retry", str(batch), **redis_and_model), cli("retry", str(batch), **redis_and_model)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert first.stdout.startswith(f"2 failures of batch {batch} will be judged again")
    assert "no failure that can be retried, or is being retried already" in second.stdout
    assert progress(ledger, batch).retrying == 2
    assert "retrying 2" in cli("status", str(batch), **redis_and_model).stdout


def test_a_code_that_no_failure_has_shows_those_that_there_are(
    cli: Cli, redis_and_model: dict[str, str], ledger: Database
) -> None:
    """A mistyped code is seen at once."""
    batch = judged(ledger)
    done = cli("retry", str(batch), "--code", "imag_empty", **redis_and_model)
    assert done.returncode == 0
    assert "with the code imag_empty" in done.stdout
    assert "image_empty 2" in done.stdout


def test_scripts_read_json(cli: Cli, redis_and_model: dict[str, str], ledger: Database) -> None:
    """One value on stdout."""
    batch = judged(ledger)
    told = json.loads(cli("retry", str(batch), "--code", "image_empty", "--json", **redis_and_model).stdout)
    assert (told["batch"], told["retried"], told["state"], told["counts"]["failed"]) == (batch, 2, "running", 2)


def test_without_redis_the_wish_is_kept_and_the_status_says_try_later(
    cli: Cli, redis_and_model: dict[str, str], ledger: Database
) -> None:
    """75, as submit: the failures are marked, and any worker sends them."""
    batch = judged(ledger)
    done = cli("retry", str(batch), **redis_and_model | {"REDIS_URL": "redis://127.0.0.1:1/0"})
    assert done.returncode == 75
    assert "the failures are marked" in done.stderr
    assert progress(ledger, batch).retrying == 2


def test_unknown_and_cancelled_batches_are_refused(cli: Cli, redis_and_model: dict[str, str], ledger: Database) -> None:
    """Exit 2, one line, and the cure."""
    batch = batch_of(ledger, 2)
    cancel_batch(ledger, batch)
    for number, code in ((99_999, "unknown_batch"), (batch, "batch_cancelled")):
        done = cli("retry", str(number), **redis_and_model)
        assert done.returncode == 2
        assert code in done.stderr
        assert done.stderr.count("\n") == 1
