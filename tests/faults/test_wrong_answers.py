"""A model that answers known questions wrongly: found out busy and idle, taken back, replaced, and taken out."""

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from audit.pair import BatchId
from audit.settings import Settings
from db import tables
from tests.support.manifests import draw, write_csv
from tests.support.running import (
    Worker,
    changed,
    check_promises,
    finished,
    ledger,
    results,
    running,
    submitted,
)
from tests.support.waiting import wait_until
from worker.seen import workers_seen

LABELS = ("Yes", "No", "Maybe")
SOMEBODY_ELSES = "f" * 64


def manifest(folder: Path, *, pairs: int, name: str = "pairs.csv") -> Path:
    """Pairs of different captions, which say what the stub is to answer."""
    picture = draw(folder / "any.png")
    rows = ((f"p{n}", picture.name, f"stub:{LABELS[n % 3].lower()} number {n}") for n in range(pairs))
    return write_csv(folder / name, rows)


def right(pairs: int) -> dict[str, str]:
    return {f"p{n}": LABELS[n % 3] for n in range(pairs)}


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """While this file is there, the stub answers wrongly."""
    return tmp_path / "wrong"


@pytest.fixture
def asked_often(settings: Settings, wrong: Path) -> Settings:
    return changed(
        settings, devices="cpu", feed_every_s=0.2, canary_every_s=0.1, stub_wrong_file=wrong, chunk_pairs=1000
    )


@pytest.fixture
def sqlite_asked_often(sqlite_settings: Settings, wrong: Path) -> Settings:
    return changed(
        sqlite_settings, devices="cpu", feed_every_s=0.2, canary_every_s=0.1, stub_wrong_file=wrong, chunk_pairs=1000
    )


def cached(settings: Settings) -> set[str]:
    with ledger(settings) as database, database.reading() as connection:
        return set(connection.execute(select(tables.judgements.c.content_key)).scalars())


def remember(settings: Settings, key: str) -> None:
    """As another worker did, some time ago."""
    values = {"content_key": key, "p_yes": 1.0, "p_no": 0.0, "p_maybe": 0.0, "created_at": 1.0}
    with ledger(settings) as database:
        database.transact(lambda connection: connection.execute(insert(tables.judgements).values(values)))


def charged(settings: Settings) -> int:
    """Chunks and pairs that were charged with a death, or parked."""
    of_chunks = select(tables.chunks.c.number).where(tables.chunks.c.deaths > 0)
    with ledger(settings) as database, database.reading() as connection:
        return len(connection.execute(of_chunks).all()) + len(connection.execute(select(tables.suspects)).all())


def in_hand(worker: Worker, settings: Settings, batch: BatchId) -> None:
    """Until a chunk is running."""
    running_ones = select(tables.chunks.c.number).where(
        tables.chunks.c.batch == batch, tables.chunks.c.state == "running"
    )

    def seen() -> bool:
        with ledger(settings) as database, database.reading() as connection:
            return bool(connection.execute(running_ones).all())

    wait_until(seen, timeout_s=60, what=f"a chunk in hand{worker.tail()}")


def found_out(worker: Worker, wrong: Path, **how: Any) -> dict[str, Any]:
    """Answer wrongly until that is noticed; returns what people were told."""
    wrong.write_text(how.get("slots", ""))
    (asked, *_) = worker.wait_for("canary answered wrongly")
    wrong.unlink(missing_ok=True)
    assert asked["level"] == "critical"
    assert asked["expected"] != asked["got"]
    (told, *_) = worker.wait_for("verdicts to look at")
    assert told["level"] == "critical"
    return told


def test_an_idle_process_that_answers_wrongly_takes_back_what_it_put_into_the_cache(
    asked_often: Settings, tmp_path: Path, wrong: Path
) -> None:
    """A bit that flipped in the weights would otherwise go on in every later batch, by way of the cache.

    Safeguards: the thread that asks while nothing is in hand; the keys that a process has written (worker/written.py).
    """
    remember(asked_often, SOMEBODY_ELSES)
    batch = submitted(asked_often, manifest(tmp_path, pairs=30))
    with running(asked_often, tmp_path) as worker:
        finished(asked_often, batch, watch=worker)
        assert len(cached(asked_often)) == 31
        told = found_out(worker, wrong)
        assert told["cache_entries_dropped"] == 30
        assert cached(asked_often) == {SOMEBODY_ELSES}
        assert told["find"].startswith(f"SELECT * FROM verdicts WHERE worker = '{told['worker']}' AND judged_at >= ")
        with ledger(asked_often) as database, database.reading() as connection:
            assert len(connection.exec_driver_sql(told["find"]).all()) <= told["verdicts"] <= 30
        again = submitted(asked_often, manifest(tmp_path, pairs=33, name="again.csv"))
        finished(asked_often, again, watch=worker)
        assert results(asked_often, again) == right(33)
        assert len(cached(asked_often)) == 34
        assert worker.stop() == 0
    assert charged(asked_often) == 0


def test_a_busy_process_that_answers_wrongly_records_nothing_of_it(
    asked_often: Settings, tmp_path: Path, wrong: Path
) -> None:
    """Verdicts of an engine that has gone wrong are the one thing that no later check finds.

    Safeguards: the question between two micro-batches, and that what is not recorded by then never is.
    """
    # Many passes between two questions: what they have judged is in hand when the answer is found to be wrong.
    slow = changed(asked_often, stub_pair_s=0.03, micro_batch=4, lease_s=120, canary_every_s=2)
    batch = submitted(slow, manifest(tmp_path, pairs=300))
    with running(slow, tmp_path) as worker:
        in_hand(worker, slow, batch)
        told = found_out(worker, wrong)
        assert (told["verdicts"], told["cache_entries_dropped"]) == (0, 0)
        finished(slow, batch, watch=worker)
        assert results(slow, batch) == right(300)
        assert worker.stop() == 0
    assert charged(slow) == 0
    assert check_promises(slow, batch).judged == 300


def test_in_careful_mode_a_wrong_answer_blames_no_pair(
    sqlite_asked_often: Settings, tmp_path: Path, wrong: Path
) -> None:
    """A marker stands before each pair; the question is asked where none does."""
    slow = changed(sqlite_asked_often, stub_pair_s=0.05, lease_s=60)
    batch = submitted(slow, manifest(tmp_path, pairs=60))
    with ledger(slow) as database:
        database.transact(lambda connection: connection.execute(tables.chunks.update().values(deaths=1)))
    with running(slow, tmp_path) as worker:
        in_hand(worker, slow, batch)
        found_out(worker, wrong)
        finished(slow, batch, watch=worker)
        assert all(event["careful"] for event in worker.events("chunk ended"))
        assert worker.stop() == 0
    with ledger(slow) as database, database.reading() as connection:
        assert connection.execute(select(tables.suspects)).all() == []
        assert connection.execute(select(tables.chunks.c.deaths)).scalars().all() == [1]


def test_questions_change_no_outcome_and_are_not_counted(sqlite_asked_often: Settings, tmp_path: Path) -> None:
    """Asked all the time, between micro-batches and in recycled processes, they must not be seen in the table."""
    often = changed(
        sqlite_asked_often,
        canary_every_s=0.001,
        stub_wrong_file=None,
        chunk_pairs=8,
        max_tasks_per_child=3,
        slots_per_device=2,
        cache=False,
    )
    batch = submitted(often, manifest(tmp_path, pairs=120))
    with running(often, tmp_path) as worker:
        finished(often, batch, watch=worker)
        assert worker.stop() == 0
        recycled = worker.events("worker process recycled")
        assert len(recycled) >= 2
        assert worker.events("worker process leaves") == []
    assert results(often, batch) == right(120)
    assert charged(often) == 0
    assert check_promises(often, batch).judged == 120


def test_a_worker_that_is_told_to_stop_while_a_question_is_asked_stops(
    sqlite_asked_often: Settings, tmp_path: Path
) -> None:
    """The thread that asks is in the engine just then; nobody has to be killed for it."""
    slow = changed(sqlite_asked_often, stub_wrong_file=None, stub_call_s=4, canary_every_s=1)

    def asking() -> bool:
        seats = [seat for one in workers_seen(slow.home, now=time.time()) for seat in one.seats]
        return any((seat.answered_s or 0) > 2 for seat in seats)  # asked after one second, answered after five

    with running(slow, tmp_path) as worker:
        wait_until(asking, timeout_s=90, what=f"a question to be asked{worker.tail()}")
        assert worker.stop() == 0
        assert worker.events("worker process ended") == []
        assert worker.events("canary answered wrongly") == []


@pytest.fixture
def impatient(tmp_path: Path) -> str:
    """PYTHONPATH with which a doubted slot waits for half a second at most."""
    folder = tmp_path / "hook"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import worker.sick as sick\nsick.FIRST_WAIT_S, sick.LONGEST_WAIT_S = 0.1, 0.5\n"
    )
    return f"{folder}:{Path(__file__).resolve().parents[2]}"


@pytest.mark.long
def test_a_device_that_stays_wrong_takes_its_slot_out_and_the_other_one_works_on(
    sqlite_asked_often: Settings, tmp_path: Path, wrong: Path, impatient: str
) -> None:
    """One bad GPU of eight must end neither the worker nor, for ever, the trust in the other seven.

    Safeguard: a load that fails after a wrong answer, or beside a slot that answers rightly, is the slot's own.
    """
    two = changed(sqlite_asked_often, slots_per_device=2, chunk_pairs=8)
    with running(two, tmp_path, PYTHONPATH=impatient) as worker:
        wait_until(lambda: len(worker.events("model proved")) >= 2, timeout_s=60, what="two slots")
        wrong.write_text("0")
        (out,) = worker.wait_for("slot is out", timeout_s=120)
        assert out["slot"] == 0
        batch = submitted(two, manifest(tmp_path, pairs=40))
        finished(two, batch, watch=worker)
        assert results(two, batch) == right(40)
        assert worker.process.poll() is None
        assert worker.stop() == 0


@pytest.mark.long
def test_a_worker_whose_devices_all_stay_wrong_ends_with_69(
    sqlite_asked_often: Settings, tmp_path: Path, wrong: Path, impatient: str
) -> None:
    """A supervisor must hear of it; the backlog waits for a sound worker."""
    with running(sqlite_asked_often, tmp_path, PYTHONPATH=impatient) as worker:
        worker.wait_for("model proved")
        wrong.write_text("")
        assert worker.process.wait(timeout=180) == 69, worker.tail()


def test_a_pair_that_spoils_every_engine_is_set_aside(sqlite_settings: Settings, tmp_path: Path) -> None:
    """Uncharged it would go from process to process for ever, and take slot after slot out of service."""
    settings = changed(sqlite_settings, devices="cpu", feed_every_s=0.2, chunk_pairs=4, max_attempts=3, cache=False)
    draw(tmp_path / "any.png")
    rows = [(f"p{n}", "any.png", "stub:spoil" if n == 1 else f"stub:yes number {n}") for n in range(8)]
    batch = submitted(settings, write_csv(tmp_path / "pairs.csv", rows))
    with running(settings, tmp_path) as worker:
        (parked,) = worker.wait_for("chunk parked", timeout_s=120)
        assert (parked["batch"], parked["chunk"]) == (batch, 0)
        # Those behind it in its chunk wait with it, for nobody knows yet which one it was.
        wait_until(lambda: len(results(settings, batch)) == 5, timeout_s=120, what=f"the others\n{worker.tail()}")
        worker.stop()
    assert results(settings, batch) == {f"p{n}": "Yes" for n in (0, 4, 5, 6, 7)}
    assert len(worker.events("canary answered wrongly")) == 3
