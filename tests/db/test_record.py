"""What is recorded is what was judged, to the last bit, by whichever way a database is written to fastest."""

import threading
from collections.abc import Callable

from sqlalchemy import select

from audit.pair import BatchId, Pair
from audit.verdict import Failure, Outcome, Scores, Verdict
from db import tables
from db.cache import remembered
from db.engine import Database, open_database
from db.exports import outcomes
from db.record import Recorded, record
from tests.support.claims import batch_of, take, yes

ODD = 'it\'s "odd": 50 % {of} \\x00 caf\u00e9 \U0001f600 \0 \udce9 end'
THIRD = 1.0 / 3.0
TINY = 1e-300


def test_every_value_comes_back_as_it_was(database: Database) -> None:
    """A float that lost its last digit is another verdict, and a text that lost a letter another reason."""
    batch = batch_of(database, 3)
    held = take(database, batch)
    first, second, third = held.pairs
    scores = Scores(p_yes=TINY, p_no=1.0 - THIRD, p_maybe=THIRD)
    stages = {"decode": 0.1 + 0.2, "model": 1e-7}
    judged = [
        Outcome(
            row=first.row,
            result=Verdict(scores=scores),
            flags=("animated", "caption_cleaned"),
            image_sha256="ab" * 32,
            content_key="key-1",
            stage_ms=stages,
        ),
        Outcome(row=second.row, result=Failure(code="image_empty", detail=ODD)),
        Outcome(row=third.row, result=Verdict(scores=scores), content_key="key-2", cached=True),
    ]
    assert record(database, held, judged) is Recorded.DONE
    one, two, three = outcomes(database, batch)
    assert (one.label, one.p_yes, one.p_no, one.p_maybe) == ("No", TINY, 1.0 - THIRD, THIRD)
    assert (one.flags, one.flagged, one.cached) == (("animated", "caption_cleaned"), True, False)
    assert (one.decode_ms, one.model_ms) == (0.1 + 0.2, 1e-7)
    assert (one.worker, one.model, one.engine, one.device, one.attempt) == ("w:0", "demo", "stub", "cpu", 1)
    assert (two.label, two.failure_code, two.p_yes, two.decode_ms) == (None, "image_empty", None, None)
    assert two.failure_detail == 'it\'s "odd": 50 % {of} \\x00 caf\u00e9 \U0001f600 \\x00 \\udce9 end'
    assert (three.cached, three.flags) == (True, ())
    with database.reading() as connection:
        digest = select(tables.outcomes.c.image_sha256).where(tables.outcomes.c.batch == batch)
        assert connection.scalars(digest.order_by(tables.outcomes.c.row)).all() == ["ab" * 32, None, None]
    assert remembered(database, ["key-1", "key-2"]) == {"key-1": scores}  # what was remembered is not written again


def test_the_first_writer_of_a_judgement_wins(database: Database) -> None:
    """Two models that disagree by a rounding must not make the cache answer differently from one minute to the next."""
    for p_yes in (0.8, 0.7):
        batch = batch_of(database, 1)
        held = take(database, batch)
        scores = Scores(p_yes=p_yes, p_no=0.1, p_maybe=0.9 - p_yes)
        result = Outcome(row=held.pairs[0].row, result=Verdict(scores=scores), content_key="same")
        assert record(database, held, [result]) is Recorded.DONE
    assert remembered(database, ["same"])["same"].p_yes == 0.8


def test_a_content_key_twice_in_one_chunk_is_remembered_once(database: Database) -> None:
    """A manifest may hold the same picture and caption under two ids."""
    batch = batch_of(database, 2)
    held = take(database, batch)
    same = [Outcome(row=pair.row, result=yes(pair).result, content_key="same") for pair in held.pairs]
    assert record(database, held, same) is Recorded.DONE
    assert len(list(outcomes(database, batch))) == 2


def test_many_writers_of_the_same_judgements_all_succeed(database: Database) -> None:
    """Workers of a fleet judge the same pictures at the same time, each in an order of its own."""
    batches = [batch_of(database, 40, chunk_pairs=40) for _ in range(4)]
    failed: list[BaseException] = []

    def work(batch: BatchId, order: Callable[[list[Pair]], list[Pair]]) -> None:
        own = open_database(database.engine.url.render_as_string(hide_password=False))
        try:
            held = take(own, batch)
            assert record(own, held, [yes(pair) for pair in order(list(held.pairs))]) is Recorded.DONE
        except BaseException as error:  # noqa: BLE001 - told by the assertion below
            failed.append(error)
        finally:
            own.close()

    orders = (lambda pairs: pairs, lambda pairs: pairs[::-1]) * 2
    threads = [threading.Thread(target=work, args=pair) for pair in zip(batches, orders, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failed == []
    assert [len(list(outcomes(database, batch))) for batch in batches] == [40] * 4
