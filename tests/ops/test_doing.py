"""submit and sweep: what changes the ledger, as people and scripts run it."""

import json
import time
from pathlib import Path

import pytest

from audit.policy import Policy
from audit.verdict import Label
from db.engine import Database
from db.queries import progress
from ops.submitting import policy_of
from tests.ops.conftest import Cli, bare
from tests.support.ledger_rows import add_batch, add_chunk
from tests.support.manifests import draw, small_manifest, write_csv
from tests.support.redis_server import RedisServer


@pytest.fixture
def submit_environment(redis_url: str, model_directory: Path) -> dict[str, str]:
    return {"REDIS_URL": redis_url, "AUDIT_MODEL": str(model_directory), "AUDIT_CHUNK_PAIRS": "3"}


def test_submit_tells_scripts_the_batch_and_whether_it_is_new(
    cli: Cli, submit_environment: dict[str, str], tmp_path: Path
) -> None:
    """A nightly job submits the same file again after a crash, and must see that nothing was doubled."""
    manifest = str(small_manifest(tmp_path, pairs=7))
    first, second, third = (
        cli("submit", manifest, "--json", *more, **submit_environment) for more in ([], [], ["--again"])
    )
    assert [done.returncode for done in (first, second, third)] == [0, 0, 0], first.stderr
    told = json.loads(first.stdout)
    assert {name: told[name] for name in ("pairs", "chunks", "new", "sent")} == {
        "pairs": 7,
        "chunks": 3,
        "new": True,
        "sent": True,
    }
    assert json.loads(second.stdout) == told | {"new": False}
    assert json.loads(third.stdout)["batch"] != told["batch"]


def test_submit_options_reach_the_batch(
    cli: Cli, submit_environment: dict[str, str], tmp_path: Path, ledger: Database
) -> None:
    """Columns of other names, another folder of pictures, a policy and a tenant are stored with the batch."""
    draw(tmp_path / "pictures" / "a.png")
    header = ("sku", "file", "text", "hint")
    write_csv(tmp_path / "shop.txt", [("1", "a.png", "a red square", "it is winter")], header=header)
    options = ["--id-column", "sku", "--image-column", "file", "--caption-column", "text", "--premise-column", "hint"]
    options += ["--format", "csv", "--image-root", str(tmp_path / "pictures"), "--name", "spring", "--tenant", "shop"]
    options += ["--flag-label", "maybe", "--flag-label", "NO", "--flag-p-no", "0.4", "--lane", "interactive", "--json"]
    done = cli("submit", str(tmp_path / "shop.txt"), *options, **submit_environment)
    assert done.returncode == 0, done.stderr
    seen = progress(ledger, json.loads(done.stdout)["batch"])
    assert (seen.name, seen.tenant, seen.lane, seen.submitted, seen.failed) == ("spring", "shop", "interactive", 1, 0)
    assert seen.policy == '{"labels":["Maybe","No"],"p_no_at_least":0.4}'


def test_a_threshold_alone_replaces_the_label() -> None:
    """`--flag-p-no 0.9` is for those who want the sure ones only; with --flag-label it adds to the labels."""
    assert policy_of(None, None) == Policy()
    assert policy_of(None, 0.9) == Policy(labels=frozenset(), p_no_at_least=0.9)
    assert policy_of([Label.NO], 0.3) == Policy(p_no_at_least=0.3)
    assert policy_of([Label.MAYBE], None) == Policy(labels=frozenset({Label.MAYBE}))


def test_submitting_without_redis_commits_and_says_so(
    cli: Cli, submit_environment: dict[str, str], tmp_path: Path
) -> None:
    """The ledger has the batch: that is what counts, and a worker finds it there."""
    away = submit_environment | {"REDIS_URL": "redis://:secret@127.0.0.1:1/0"}
    done = cli("submit", str(small_manifest(tmp_path)), **away)
    assert done.returncode == 75
    assert "the batch is registered" in done.stdout
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["missing.csv"], "missing.csv"),
        (["pairs.csv", "--caption-column", "text"], "text"),
        (["pairs.csv", "--flag-p-no", "1.5"], "from 0 to 1"),
        (["pairs.csv", "--flag-label", "perhaps"], "perhaps"),
        (["pairs.csv", "--image-root", "nowhere"], "nowhere"),
        (["pairs.csv", "--model", "no/such-model"], "no/such-model"),
    ],
)
def test_a_wrong_submission_is_refused_in_one_line_that_names_the_field(
    cli_here: Cli, submit_environment: dict[str, str], tmp_path: Path, arguments: list[str], reason: str
) -> None:
    """Nothing is registered, and the line says what to change."""
    small_manifest(tmp_path)
    refused = cli_here("submit", *arguments, **submit_environment)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1
    assert reason in refused.stderr


def test_sweep_gives_back_what_dead_processes_held_and_rings(
    cli: Cli, submit_environment: dict[str, str], ledger: Database, own_redis: RedisServer
) -> None:
    """With every worker gone, one command puts the queue right; without Redis it says: try later."""
    model = submit_environment["AUDIT_MODEL"]
    batch = add_batch(ledger, model=model)
    long_ago = {"claimed_at": time.time() - 90, "lease_until": time.time() - 60, "token": "t", "attempts": 1}
    holder = {"holder_host": "elsewhere", "holder_boot": "b", "holder_pid": 7, "holder_started": 1}
    add_chunk(ledger, batch, 0, "running", pairs=3, **long_ago, **holder)
    add_chunk(ledger, batch, 1, "pending", pairs=3)
    environment = submit_environment | {"REDIS_URL": own_redis.url}
    swept = cli("sweep", "--json", **environment)
    assert (swept.returncode, json.loads(swept.stdout)) == (
        0,
        {"released": 1, "parked": 0, "revived": 0, "sent": 2},
    ), swept.stderr
    assert "chunk 0 of batch" in swept.stderr
    assert progress(ledger, batch).chunks == {"sent": 2}

    add_chunk(ledger, batch, 2, "pending", pairs=3)
    own_redis.kill()
    later = cli("sweep", **environment)
    assert (later.returncode, later.stdout) == (75, "")
    assert progress(ledger, batch).chunks == {"sent": 2, "pending": 1}


def test_parked_chunks_get_a_new_life_when_asked(
    cli: Cli, submit_environment: dict[str, str], ledger: Database
) -> None:
    """When the broken driver is mended, its victims are judged after all; a plain sweep leaves them."""
    batch = add_batch(ledger, model=submit_environment["AUDIT_MODEL"])
    add_chunk(ledger, batch, 0, "parked", pairs=3, deaths=5)
    assert json.loads(cli("sweep", "--json", **submit_environment).stdout)["revived"] == 0
    assert "see the worker's log, then: caption-audit sweep --parked" in bare(cli("status", str(batch)).stdout)
    swept = json.loads(cli("sweep", "--parked", "--json", **submit_environment).stdout)
    assert (swept["revived"], swept["sent"]) == (1, 1)
    assert progress(ledger, batch).state == "queued"


def test_the_ledger_can_be_made_checked_and_named(cli: Cli, tmp_path: Path) -> None:
    """A deployment runs `db upgrade` first, and its probe `db check`."""
    home = {"AUDIT_HOME": str(tmp_path / "new")}
    assert cli("db", "check", **home).returncode == 2
    made = cli("db", "upgrade", **home)
    assert (made.returncode, made.stderr) == (0, "")
    assert cli("db", "check", **home).returncode == 0
    assert cli("db", "current", **home).stdout.strip() in made.stdout
    assert cli("db", "upgrade", **home).stdout.endswith("as before\n")
