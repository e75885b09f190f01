"""The chaos driver itself: a short rain on both databases, and a checker that finds planted wrongs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from audit.settings import Settings
from db.record import Recorded, record
from tests.chaos.checker import check
from tests.chaos.plan import draw_faults, draw_plan, draw_stub_pairs
from tests.chaos.run import Options, run_chaos
from tests.chaos.truth import Acknowledged, Expected, Truth
from tests.support.claims import batch_of, broken, take, yes
from tests.support.redis_server import RedisServer
from tests.support.running import ledger

SEED = 11
OWED = {f"id-{row}": Expected(label="Yes", scores=(0.8, 0.1, 0.1)) for row in range(8)}
OWED["id-7"] = Expected(code="image_empty")
PAIR = ("batch", "row", "id", "conflict", "image", "caption", "premise", "extra", "raw")
OUTCOME = (
    *("batch", "row", "label", "p_yes", "p_no", "p_maybe", "failure_code", "failure_detail", "flagged", "flags"),
    *("image_sha256", "content_key", "cached", "model", "model_revision", "engine", "precision", "device", "worker"),
    *("attempt", "judged_at"),
)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_short_rain_loses_doubles_and_blames_nothing(
    database: str, redis_server: RedisServer, postgres_binaries: Path
) -> None:
    """The driver is how the promises are shown at size (`make chaos`); a driver that does not run shows nothing.

    Safeguard: all of them; the fixtures only skip where there is no Redis or no PostgreSQL.
    """
    told: list[str] = []
    options = Options(
        seed=SEED, pairs=3000, minutes=1, faults=20, killers=2, database=database, engine="stub", workers=2
    )
    summary = run_chaos(options, say=told.append)
    assert summary.problems == [], "\n".join(told)
    assert summary.counted_faults == 20
    assert summary.judged + summary.cancelled == 3000


def test_the_seed_decides_pairs_and_faults() -> None:
    """A run that found something can be run again."""
    first, again, other = (
        (draw_stub_pairs(seed=seed, count=500, killers=2), draw_faults(seed=seed, count=200, database="postgresql"))
        for seed in (1, 1, 2)
    )
    assert first == again != other
    batches = draw_plan(first[0], seed=1, minutes=1, faults=first[1]).batches
    assert [pair for batch in batches for pair in batch.pairs] == first[0]
    assert {"ledger_killed", "child_killed", "rubbish", "redis_wiped"} < set(first[1])


def nothing(connection: Connection) -> None:
    """The ledger as it should be."""


def lose(connection: Connection) -> None:
    """The outcome is gone, and the chunk's counts agree with that."""
    connection.execute(text("DELETE FROM outcomes WHERE row = 3"))


def double(connection: Connection) -> None:
    """The pair stands in the ledger twice, with an outcome each."""
    for table, columns in (("pairs", PAIR), ("outcomes", OUTCOME)):
        names, other = ", ".join(columns), {"row": "row + 900", "conflict": "1"}
        values = ", ".join(other.get(name, name) for name in columns)
        connection.execute(text(f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} WHERE row = 3"))
    connection.execute(text("UPDATE chunks SET pairs = pairs + 1, last_row = last_row + 900"))


def relabel(connection: Connection) -> None:
    """Another answer than the model's."""
    changed = "label = 'Maybe', p_yes = 0.25, p_no = 0.25, p_maybe = 0.5"
    connection.execute(text(f"UPDATE outcomes SET {changed} WHERE row = 3"))


def shade(connection: Connection) -> None:
    """The right label with another probability."""
    connection.execute(text("UPDATE outcomes SET p_yes = 0.79, p_no = 0.11 WHERE row = 3"))


def blame(connection: Connection) -> None:
    """An innocent pair fails."""
    empty = ", ".join(f"{name} = NULL" for name in ("label", "p_yes", "p_no", "p_maybe"))
    changed = f"{empty}, failure_code = 'worker_died', failure_detail = 'by hand'"
    connection.execute(text(f"UPDATE outcomes SET {changed} WHERE row = 3"))


def spare(connection: Connection) -> None:
    """A pair that must fail has a verdict."""
    changed = "label = 'Yes', p_yes = 0.8, p_no = 0.1, p_maybe = 0.1, failure_code = NULL, failure_detail = NULL"
    connection.execute(text(f"UPDATE outcomes SET {changed} WHERE row = 7"))


def miscode(connection: Connection) -> None:
    """It failed, but of something else."""
    connection.execute(text("UPDATE outcomes SET failure_code = 'worker_died' WHERE row = 7"))


def smuggle(connection: Connection) -> None:
    """A pair that nobody submitted."""
    double(connection)
    connection.execute(text("UPDATE pairs SET id = 'id-903' WHERE row = 903"))


def reopen(connection: Connection) -> None:
    """A chunk that somebody still has to judge."""
    connection.execute(text("UPDATE chunks SET state = 'parked'"))


PLANTED: dict[Callable[[Connection], None], dict[str, list[str]]] = {
    nothing: {},
    lose: {"lost": ["small/id-3"]},
    double: {"doubled": ["small/id-3"]},
    relabel: {"wrong": ["small/id-3: Maybe, not Yes, or other probabilities"]},
    shade: {"wrong": ["small/id-3: Yes, not Yes, or other probabilities"]},
    blame: {"blamed": ["small/id-3: worker_died"]},
    spare: {"spared": ["small/id-7: Yes, not image_empty"]},
    miscode: {"miscoded": ["small/id-7: worker_died, not image_empty"]},
    smuggle: {"strange": ["small/id-903: nobody submitted it"]},
    reopen: {"unfinished": ["small: parked, {'parked': 1}"]},
}


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.__name__)
def test_the_checker_finds_what_was_done_to_a_ledger_by_hand(
    settings: Settings, planted: Callable[[Connection], None]
) -> None:
    """A checker that cannot fail proves nothing: each planted wrong is told as what it is, and nothing beside it."""
    with ledger(settings) as database:
        batch = batch_of(database, 8, chunk_pairs=8, name="small")
        held = take(database, batch)
        judged = [broken(pair) if pair.id == "id-7" else yes(pair) for pair in held.pairs]
        assert record(database, held, judged) is Recorded.DONE
        database.transact(planted)
        database.transact(recount)
    found = check(settings, Truth(acknowledged=[Acknowledged(batch=batch, name="small", expected=OWED)])).found
    if planted is lose:  # then the batch's sums do not add up, either
        assert len(found.pop("promises")) == 1
    assert found == PLANTED[planted]


def recount(connection: Connection) -> None:
    """The chunk's own counts, as the outcomes stand now: what is planted is one thing alone."""
    for column, which in (("yes", "= 'Yes'"), ("no", "= 'No'"), ("maybe", "= 'Maybe'"), ("failed", "IS NULL")):
        connection.execute(text(f"UPDATE chunks SET {column} = (SELECT count(*) FROM outcomes WHERE label {which})"))


def test_a_killer_that_the_driver_struck_itself_may_be_named_for_that(settings: Settings) -> None:
    """A hang whose process is killed by the rain ends as `worker_died`: excused there, and told, and nowhere else."""
    with ledger(settings) as database:
        batch = batch_of(database, 8, chunk_pairs=8, name="small")
        held = take(database, batch)
        record(database, held, [broken(pair) if pair.id == "id-7" else yes(pair) for pair in held.pairs])
        database.transact(miscode)
    owed = Acknowledged(batch=batch, name="small", expected=OWED)
    struck, elsewhere = ({(int(batch), chunk)} for chunk in (0, 1))
    found = check(settings, Truth(acknowledged=[owed], struck=struck))
    assert (found.found, found.excused) == ({}, ["small/id-7: worker_died, not image_empty"])
    assert set(check(settings, Truth(acknowledged=[owed], struck=elsewhere)).found) == {"miscoded"}
