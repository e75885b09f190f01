"""The rounds of a worker's main process: each part is done whatever becomes of the others, and the thread lives on."""

import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import event
from structlog.testing import capture_logs

from audit.errors import BrokerUnavailable
from audit.message import Lane
from audit.settings import Settings
from db.engine import Database, open_database
from db.feed import Doorbell
from db.queries import progress
from db.sweep import Rules
from tests.support.claims import batch_of
from tests.support.running import changed
from tests.support.waiting import wait_until
from worker import housekeeping
from worker.housekeeping import Housekeeper, Rounds


@pytest.fixture
def ledger(sqlite_settings: Settings) -> Iterator[Database]:
    """The ledger of the settings."""
    database = open_database(sqlite_settings.ledger_url)
    yield database
    database.close()


class Office:
    """What a round needs of its worker: a bell that can be broken, and a board that can fail."""

    def __init__(self) -> None:
        self.rung: list[Doorbell] = []
        self.rounds = 0
        self.redis_away = False
        self.board_broken = False

    def ring(self, doorbells: list[Doorbell]) -> None:
        """Take the doorbells, unless Redis is away."""
        if self.redis_away:
            raise BrokerUnavailable("broker_unavailable", "away")
        self.rung += doorbells

    def knock(self) -> None:
        """Fail while Redis is away."""
        if self.redis_away:
            raise BrokerUnavailable("broker_unavailable", "away")

    def check(self) -> None:
        """Count the round, and fail if told so."""
        self.rounds += 1
        if self.board_broken:
            raise IndexError("the board")

    def rounds_for(self, settings: Settings) -> Rounds:
        """Ways into this office."""
        return Rounds(
            settings=settings,
            model="demo",
            slots=1,
            ring=self.ring,
            knock=self.knock,
            lying=lambda lanes: {},
            nobody_works=lambda: False,
            reconnect=lambda: None,
            stuck=list,
            rules=lambda trust: Rules(max_deaths=5, trust_leases=trust),
            recall=lambda _database: None,
            tell=lambda database: None,
            give_way=lambda database: None,
            check=self.check,
        )


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
def keeper(sqlite_settings: Settings, office: Office) -> Iterator[Housekeeper]:
    """Quick rounds; stopped at the end."""
    housekeeper = Housekeeper(office.rounds_for(changed(sqlite_settings, feed_every_s=0.05)))
    yield housekeeper
    housekeeper.stop()


def test_a_round_feeds_what_waits(keeper: Housekeeper, office: Office, ledger: Database) -> None:
    """Nobody has to ask for it."""
    batch = batch_of(ledger, 8)
    keeper.start()
    wait_until(lambda: len(office.rung) == 2, timeout_s=20, what="two doorbells")
    assert {(bell.batch, bell.lane) for bell in office.rung} == {(batch, Lane.BULK)}


def test_rounds_keep_their_statements_and_no_connection(
    sqlite_settings: Settings, office: Office, ledger: Database
) -> None:
    """Putting statements together anew took two thirds of a round; a connection would be copied into a fork."""
    batch_of(ledger, 8)
    used: set[int] = set()
    opened: list[object] = []

    def tell(database: Database) -> None:
        if id(database.engine) not in used:
            used.add(id(database.engine))
            event.listen(database.engine, "connect", lambda connection, _record: opened.append(connection))
        with database.reading() as connection:
            connection.exec_driver_sql("SELECT 1")

    keeper = Housekeeper(replace(office.rounds_for(changed(sqlite_settings, feed_every_s=0.05)), tell=tell))
    keeper.start()
    wait_until(lambda: office.rounds > 3, timeout_s=20, what="rounds")
    keeper.stop()
    assert len(used) == 1
    assert len(opened) >= 2


def test_what_redis_does_not_take_goes_back(keeper: Housekeeper, office: Office, ledger: Database) -> None:
    """It is pending again at once, and rung as soon as Redis is back."""
    office.redis_away = True
    batch = batch_of(ledger, 8)
    keeper.start()
    wait_until(lambda: office.rounds > 3, timeout_s=20, what="rounds without Redis")
    office.redis_away = False
    wait_until(lambda: len(office.rung) == 2, timeout_s=20, what="two doorbells")
    assert progress(ledger, batch).chunks == {"sent": 2}


def test_a_stuck_process_that_has_left_meanwhile_costs_no_round(
    sqlite_settings: Settings, office: Office, ledger: Database
) -> None:
    """Between the look at the board and the kill it may be gone; the chunks that wait are fed all the same."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    quick = changed(sqlite_settings, feed_every_s=0.05, lease_s=3, pair_limit_s=2)
    asked: list[int] = []

    def stuck() -> list[int]:
        asked.append(gone.pid)
        return [gone.pid]

    keeper = Housekeeper(replace(office.rounds_for(quick), stuck=stuck))
    keeper.start()
    try:
        wait_until(lambda: asked, timeout_s=20, what="a look at the board")
        batch_of(ledger, 4)
        wait_until(lambda: len(office.rung) == 1, timeout_s=20, what="a doorbell")
    finally:
        keeper.stop()


def test_a_stuck_process_is_killed_once(sqlite_settings: Settings, office: Office) -> None:
    """It stands on the board until its successor takes its place; seven lines for one death look like seven deaths."""
    quick = changed(sqlite_settings, feed_every_s=0.05, lease_s=3, pair_limit_s=2)
    with capture_logs() as lines, subprocess.Popen(["sleep", "600"]) as stuck:
        keeper = Housekeeper(replace(office.rounds_for(quick), stuck=lambda: [stuck.pid]))
        keeper.start()
        try:
            stuck.wait(timeout=30)
            rounds = office.rounds
            wait_until(lambda: office.rounds > rounds + 3, timeout_s=30, what="more rounds")
        finally:
            keeper.stop()
            stuck.kill()
    assert [line["pid"] for line in lines if line["event"] == "stuck process killed"] == [stuck.pid]


def test_an_outage_of_redis_is_told_when_it_begins_and_when_it_ends(
    keeper: Housekeeper, office: Office, ledger: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that says "goes on" every few seconds of an outage sends whoever reads it the wrong way.

    Safeguard: a round that does not knock takes Redis for what the last knock found.
    """
    monkeypatch.setattr(housekeeping, "KNOCK_EVERY_S", 0.5)
    office.redis_away = True
    with capture_logs() as logs:
        keeper.start()
        wait_until(lambda: office.rounds > 30, timeout_s=60, what="rounds with and without a knock")
        assert keeper.waits == "away"
        office.redis_away = False
        wait_until(lambda: keeper.waits is None, timeout_s=60, what="Redis to be found again")
    told = [line["event"] for line in logs if line["event"].startswith("housekeeping")]
    assert told == ["housekeeping waits", "housekeeping goes on"]


def test_the_thread_outlives_what_nobody_expected(keeper: Housekeeper, office: Office, ledger: Database) -> None:
    """Without it nothing is fed any more, for the rest of the night."""
    office.board_broken = True
    batch_of(ledger, 4)
    keeper.start()
    wait_until(lambda: office.rounds > 2, timeout_s=20, what="failing rounds")
    office.board_broken = False
    wait_until(lambda: len(office.rung) == 1, timeout_s=20, what="a doorbell")
    assert any(thread.name == "housekeeping" for thread in threading.enumerate())
