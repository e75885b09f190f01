"""Cancelling in the middle of a chunk, and retrying what failed: with real processes."""

from pathlib import Path

from audit.settings import Settings
from db.cancel import cancel_batch
from db.queries import progress
from db.retry import retry_failures
from tests.support.manifests import draw, write_csv
from tests.support.running import changed, check_promises, finished, ledger, results, running, submitted
from tests.support.waiting import wait_until

PAIRS = 400


def test_a_cancel_acts_between_two_micro_batches_and_keeps_what_is_judged(
    sqlite_settings: Settings, tmp_path: Path
) -> None:
    """Nobody waits for the end of a chunk of minutes; what was judged before, also since the last commit, stays.

    Safeguard: the main process asks children for chunks of cancelled batches (worker/lifecycle.py), and the ledger lets
    their holder record once more (db/record.py).
    """
    settings = changed(
        sqlite_settings, devices="cpu", lease_s=120, stub_pair_s=0.1, chunk_pairs=PAIRS, micro_batch=1, feed_every_s=0.2
    )
    draw(tmp_path / "red.png")
    rows = [(f"p{number}", "red.png", f"stub:yes {number}") for number in range(PAIRS)]
    batch = submitted(settings, write_csv(tmp_path / "pairs.csv", rows))
    with running(settings, tmp_path) as worker, ledger(settings) as database:
        wait_until(lambda: progress(database, batch).state == "running", timeout_s=90, what="a claim")
        worker.wait_for("model proved")
        cancel_batch(database, batch)
        ended = worker.wait_for("chunk ended", timeout_s=60)  # the whole chunk takes forty seconds of sleep alone
        assert [event["ending"] for event in ended] == ["cancelled"]
        one = submitted(settings, write_csv(tmp_path / "one.csv", rows[:1]))
        finished(settings, one, watch=worker)
    seen = check_promises(settings, batch)
    assert seen.state == "cancelled"
    assert 0 < seen.judged < PAIRS  # its lease's third, when it would have committed, had not passed
    assert seen.judged + seen.cancelled == PAIRS
    check_promises(settings, one)


def test_failures_are_judged_again_when_their_cause_is_mended(settings: Settings, tmp_path: Path) -> None:
    """A folder was not mounted, a file came late: nobody submits a million pairs anew for that.

    Safeguard: `retries` rows make a chunk claimable again, for the failed pairs alone (db/retry.py, db/claim.py).
    """
    quick = changed(settings, devices="cpu", feed_every_s=0.2, resend_s=2, chunk_pairs=4)
    draw(tmp_path / "red.png")
    rows = [(f"p{number}", f"{'late' if number % 3 == 0 else 'red'}.png", f"stub:no {number}") for number in range(10)]
    batch = submitted(quick, write_csv(tmp_path / "pairs.csv", rows))
    with running(quick, tmp_path) as worker, ledger(quick) as database:
        finished(quick, batch, watch=worker)
        before = results(quick, batch)
        assert {pair for pair, result in before.items() if result != "No"} == {"p0", "p3", "p6", "p9"}
        draw(tmp_path / "late.png")
        assert retry_failures(database, batch) == 4
        finished(quick, batch, watch=worker)
    assert results(quick, batch) == {f"p{number}": "No" for number in range(10)}
    assert check_promises(quick, batch).failed == 0
