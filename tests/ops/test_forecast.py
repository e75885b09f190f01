"""The command forecast, on ledgers whose history the real code wrote."""

import json
from pathlib import Path

import pytest

from audit.baseline import write_baseline
from audit.message import Lane
from db.engine import Database
from tests.audit.test_baseline import SOME
from tests.ops.conftest import Cli
from tests.support.histories import judged, midnight, submitted


def past(database: Database, *, days: int, pairs: int = 4, took_s: float = 2.0) -> None:
    """So many whole days with one batch each, judged on the same day; weekends bring half."""
    for ago in range(1, days + 1):
        at = midnight(days_ago=ago)
        batch = submitted(
            database, pairs, at=at + 3600, lane=Lane.INTERACTIVE if ago % 2 else Lane.BULK, chunk_pairs=500
        )
        judged(database, batch, at=at + 7200, took_s=took_s)


def test_a_ledger_without_a_whole_day_has_no_forecast(cli_here: Cli, ledger: Database) -> None:
    """Today's first batch is no history."""
    submitted(ledger, 3, at=midnight() + 1)
    done = cli_here("forecast")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no batch is older than today" in done.stderr


def test_a_short_history_is_a_mean_and_says_so(cli: Cli, database: Database, ledger_url: str) -> None:
    """Five days say what a day brings, and nothing of where it goes."""
    past(database, days=5)
    done = cli("forecast", "--json", "--rate", "0.01", "--hours", "8", DATABASE_URL=ledger_url)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["method"], told["used_days"], told["more_each_week"]) == ("mean", 5, 0)
    assert "5 whole days of history, and no trend is drawn from less than 14" in told["why"]
    assert told["history"]["submitted"] == told["history"]["judged"] == 20
    assert told["history"]["by_lane"] == {"bulk": 8, "interactive": 12}
    assert [month["pairs"]["expected"] for month in told["months"]] == pytest.approx(
        [4 * month["days"] for month in told["months"]]
    )
    assert told["rate"]["source"] == "option"
    assert [month["workers"] for month in told["months"]] == [{"expected": 1, "low": 1, "high": 1}] * 3
    shown = cli("forecast", "--rate", "0.01", DATABASE_URL=ledger_url).stdout
    assert "method:  5 whole days of history, and no trend" in shown
    assert f"{told['months'][0]['month']} " in shown


def test_one_day_tells_no_range(cli_here: Cli, ledger: Database) -> None:
    """A range of one day would be made up."""
    past(ledger, days=1)
    told = json.loads(cli_here("forecast", "--json").stdout)
    assert told["months"][0]["pairs"]["low"] is None
    assert told["why"].endswith("one day tells no range")
    assert "(no range)" in cli_here("forecast").stdout


def test_three_weeks_have_weekdays(cli_here: Cli, ledger: Database) -> None:
    """The same load each day: no trend, no spread, and the same three months on."""
    past(ledger, days=21)
    told = json.loads(cli_here("forecast", "--json").stdout)
    assert told["method"] == "weekdays"
    for month in told["months"]:
        assert month["pairs"]["expected"] == pytest.approx(4 * month["days"])
        assert month["busiest_day"]["expected"] == pytest.approx(4)


def test_the_rate_is_the_ledger_s_where_it_knows_enough(
    cli_here: Cli, ledger: Database, environment: dict[str, str]
) -> None:
    """A thousand real pairs say more than drawn ones; a few say less; and which it was is said."""
    home = Path(environment["AUDIT_HOME"])
    past(ledger, days=2, pairs=400, took_s=40.0)
    few = json.loads(cli_here("forecast", "--json").stdout)["rate"]
    assert few["source"] == "ledger"
    write_baseline(home, SOME)
    believed = json.loads(cli_here("forecast", "--json").stdout)["rate"]
    assert (believed["source"], believed["pairs_per_second"]) == ("baseline", SOME.pairs_per_second)
    past(ledger, days=1, pairs=400, took_s=40.0)
    known = json.loads(cli_here("forecast", "--json").stdout)["rate"]
    assert known["source"] == "ledger"
    assert known["pairs_per_second"] == pytest.approx(10, rel=1e-3)
    assert "no worker was seen" in known["told"]


def test_without_any_rate_workers_are_unknown(cli_here: Cli, ledger: Database) -> None:
    """A number of workers without a speed would be made up."""
    submitted(ledger, 3, at=midnight(days_ago=1))
    told = json.loads(cli_here("forecast", "--json").stdout)
    assert (told["rate"], told["months"][0]["workers"]) == (None, None)
    assert "rate:    unknown: give --rate, or run `caption-audit baseline`" in cli_here("forecast").stdout
