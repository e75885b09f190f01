"""Clocks that disagree: the doctor runs where one is wrong, and asks servers whose clock is right."""

import json
from pathlib import Path

from audit.settings import Settings
from ops.doctor.clock import redis_lines, sql_lines
from ops.doctor.lines import State
from tests.ops.conftest import Cli
from tests.ops.doctor.conftest import LIMIT_S, Named
from tests.support.clocks import WrongClock


def test_clocks_that_agree_are_ok(settings: Settings, named: Named) -> None:
    """Servers of this host have its clock, on either database."""
    assert named(redis_lines(settings, limit_s=LIMIT_S), "Redis").state is State.OK
    assert named(sql_lines(settings, limit_s=LIMIT_S), "SQL").state is State.OK


def test_a_clock_that_is_off_is_told_and_breaks_nothing(
    cli: Cli, redis_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """A worker whose clock is two hours ahead takes back messages that others are working on."""
    wrong = WrongClock(tmp_path, off_by_s=7200)
    servers = {"REDIS_URL": redis_url, "DATABASE_URL": postgres_url}
    library = {"LD_PRELOAD": wrong.preload, "CLOCK_FILE": wrong.file}
    asked = cli("doctor", "--only", "clock", "--limit", "120", "--json", **servers, **library)
    checks = {check["name"]: check for check in json.loads(asked.stdout)["checks"]}
    assert {name: check["state"] for name, check in checks.items()} == {"Redis": "warning", "SQL": "warning"}
    assert all("2 h 00 min behind" in check["found"] for check in checks.values())
    assert "database's clock" in checks["SQL"]["means"]
    assert asked.returncode == 0, "warnings are allowed"
