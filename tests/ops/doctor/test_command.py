"""The command doctor, as people and scripts meet it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ops.doctor.lines import Topic
from tests.ops.conftest import ROOT, Cli
from tests.support.redis_server import RedisServer

CHEAP = ("environment", "disk", "redis", "sql", "clock", "network")
FAST = [word for topic in CHEAP for word in ("--only", topic)]
SLOW_IS_FINE = ("--limit", "120")


def test_a_fresh_machine_has_nothing_wrong_and_nothing_is_made(cli: Cli, environment: dict[str, str]) -> None:
    """It is the first command that somebody types: it must not leave an AUDIT_HOME in the wrong place."""
    asked = cli("doctor", *FAST, *SLOW_IS_FINE)
    assert (asked.returncode, asked.stderr) == (0, ""), asked.stdout
    assert asked.stdout.splitlines()[-1].startswith("nothing is wrong: 0 wrong, ")
    assert not Path(environment["AUDIT_HOME"]).exists()


def test_scripts_get_stable_names(cli: Cli) -> None:
    """Whoever watches a fleet reads this, not the table."""
    told = json.loads(cli("doctor", "--json", *FAST, *SLOW_IS_FINE).stdout)
    assert (told["ok"], set(told)) == (True, {"ok", "checks"})
    assert {tuple(check) for check in told["checks"]} == {("topic", "name", "state", "found", "means", "cure")}
    assert {check["topic"] for check in told["checks"]} == set(CHEAP)
    assert {check["state"] for check in told["checks"]} <= {"ok", "warning", "wrong"}


def test_what_is_wrong_is_told_with_its_meaning_and_cure_and_by_the_status(cli: Cli) -> None:
    """A check that cannot fail checks nothing."""
    asked = cli("doctor", *SLOW_IS_FINE, "--only", "sql", DATABASE_URL="postgresql://me:s3cret@127.0.0.1:1/ledger")
    assert asked.returncode == 1
    lines = asked.stdout.splitlines()
    assert lines[0] == "sql"
    assert lines[1].startswith("  wrong    reachable: postgresql+psycopg://***@127.0.0.1:1/ledger: ")
    assert [line.split()[0] for line in lines[2:4]] == ["means:", "do:"]
    assert lines[-1] == "something is wrong: 1 wrong, 0 warnings, 0 ok"


def test_settings_that_are_refused_are_a_line_and_not_the_end(cli: Cli) -> None:
    """Whoever asks the doctor has something that does not start; that is often this."""
    asked = cli("doctor", *FAST, *SLOW_IS_FINE, AUDIT_LEASE_S="soon")
    assert (asked.returncode, asked.stderr) == (1, "")
    assert "  wrong    settings: AUDIT_LEASE_S: " in asked.stdout
    assert "CELERY_*: none is set" in asked.stdout
    assert cli("doctor", "--only", "redis", AUDIT_LEASE_S="soon").returncode == 1, "nothing was looked at"


def test_an_unknown_topic_is_a_wrong_usage(cli: Cli) -> None:
    """A typing error in a script's --only must not be a check that always passes."""
    assert cli("doctor", "--only", "everything").returncode == 2


def test_passwords_are_never_shown(cli: Cli, own_redis: RedisServer) -> None:
    """The output of a doctor is pasted into tickets."""
    secrets = ("hunter2222", "hunter3333", "hunter4444", "hunter5555")
    asked = cli(
        "doctor",
        *FAST,
        *SLOW_IS_FINE,
        "--json",
        DATABASE_URL="postgresql://me:hunter2222@127.0.0.1:1/ledger",
        REDIS_URL="redis://:hunter3333@127.0.0.1:1/0",
        AUDIT_FLOWER_PASSWORD="hunter4444",
        HTTPS_PROXY="http://me:hunter5555@127.0.0.1:1",
        CELERY_BROKER_URL="redis://:hunter3333@127.0.0.1:2/0",
    )
    assert json.loads(asked.stdout)["ok"] is False
    assert [secret for secret in secrets if secret in asked.stdout + asked.stderr] == []


def test_hostile_names_stay_on_their_line(cli: Cli, environment: dict[str, str], tmp_path: Path) -> None:
    """A line break in a path could forge a line that says ok."""
    home = tmp_path / "home\n  ok       all: well\x1b[2K"
    home.mkdir()
    asked = cli("doctor", "--only", "disk", *SLOW_IS_FINE, AUDIT_HOME=str(home))
    assert "all: well" in asked.stdout
    assert "\x1b" not in asked.stdout
    assert not [line for line in asked.stdout.splitlines() if line.startswith("  ok       all: well")]


def test_everything_is_looked_at_without_loading_torch_here(environment: dict[str, str]) -> None:
    """A torch that breaks its process must not break the doctor: what needs it runs in a process of its own."""
    code = "import sys; from ops.cli import run; run(['doctor', '--limit', '120']); print(*sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "  ok       state_dict: 278 tensors of model.safetensors fit the architecture\n" in told.stdout
    assert "  ok       torch: " in told.stdout
    topics = [line for line in told.stdout.splitlines() if line and not line.startswith(" ")][: len(Topic)]
    assert topics == [topic.value for topic in Topic]
    assert not {"torch", "modelscope", "transformers"} & set(told.stdout.splitlines()[-1].split())
