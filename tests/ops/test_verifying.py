"""The command verify: exit statuses that scripts rely on, lines for people, JSON for programs."""

import base64
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from db.engine import Database
from db.record import record
from ops.verifying import KINDS
from tests.ops.conftest import ROOT, Cli
from tests.support.claims import batch_of, take, yes
from tests.support.redis_server import RedisServer


def judged(ledger: Database, pairs: int = 4) -> int:
    batch = batch_of(ledger, pairs)
    for number in range(pairs // 4):
        held = take(ledger, batch, number)
        record(ledger, held, [yes(pair) for pair in held.pairs])
    return batch


def spoiled(ledger: Database, statement: str) -> None:
    ledger.transact(lambda connection: connection.execute(text(statement)))


def test_a_sound_ledger_has_status_0(cli_here: Cli, ledger: Database) -> None:
    """A restore's script goes on when this says so."""
    batch = judged(ledger)
    shown = cli_here("verify")
    assert (shown.returncode, shown.stderr) == (0, "")
    counts, verdict = shown.stdout.splitlines()
    assert counts.startswith("1 batch, 4 pairs = 4 verdicts, 0 failures, 0 cancelled, 0 remaining; looked at in ")
    assert verdict == "everything holds"
    assert cli_here("verify", f"b{batch}").returncode == 0


def test_a_finding_is_a_line_with_what_to_do_and_status_1(cli_here: Cli, ledger: Database) -> None:
    """Whoever reads it at night must not look up what it means."""
    judged(ledger)
    spoiled(ledger, "UPDATE outcomes SET label = 'Maybe' WHERE row = 2")
    spoiled(ledger, "UPDATE chunks SET yes = 3, maybe = 1")
    shown = cli_here("verify")
    assert shown.returncode == 1
    finding, _, verdict = shown.stdout.splitlines()
    what = "wrong_label: batch 1, chunk 0: verdicts whose label is not the most probable one (row 2): "
    assert finding.startswith(what)
    assert verdict == "1 finding of 1 kind"


def test_many_findings_of_a_kind_are_counted(cli_here: Cli, ledger: Database) -> None:
    """A terminal that scrolls a thousand lines shows the last one."""
    judged(ledger, pairs=60)
    spoiled(ledger, "UPDATE chunks SET flagged = 1")
    lines = cli_here("verify", "--most", "2").stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["wrong_counts"] * 2
    assert lines[2] == "and 13 more of wrong_counts (--most shows more)"
    assert len(lines) == 5


def test_json_has_all_that_a_script_needs(cli_here: Cli, ledger: Database) -> None:
    """A monitor asks once a night, and wants numbers."""
    batch = judged(ledger)
    spoiled(ledger, "UPDATE outcomes SET attempt = 0 WHERE row > 1")
    shown = cli_here("verify", str(batch), "--json")
    assert shown.returncode == 1
    value = json.loads(shown.stdout)
    assert {name: value[name] for name in ("ok", "kinds", "left_out")} == {
        "ok": False,
        "kinds": {"bad_attempt": 1},
        "left_out": {},
    }
    (finding,) = value["findings"]
    assert {name: finding[name] for name in ("kind", "batch", "chunk", "count", "rows")} == {
        "kind": "bad_attempt",
        "batch": batch,
        "chunk": 0,
        "count": 2,
        "rows": [2, 3],
    }
    assert finding["cure"]
    (seen,) = value["batches"]
    assert seen == {
        "batch": batch,
        "state": "open",
        "chunks": 1,
        "submitted": 4,
        "verdicts": 4,
        "failures": 0,
        "cancelled": 0,
        "remaining": 0,
    }


def test_an_unknown_batch_has_status_2(cli_here: Cli, ledger: Database) -> None:
    """A typing error must not read as: everything holds."""
    judged(ledger)
    shown = cli_here("verify", "99")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "there is no batch 99" in shown.stderr


def test_a_ledger_that_is_away_has_status_69(cli_here: Cli) -> None:
    """Not to be taken for a ledger with findings."""
    shown = cli_here("verify", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert (shown.returncode, shown.stdout) == (69, "")


def test_every_kind_says_what_it_means_and_what_to_do() -> None:
    """A kind without words would end in a traceback, at the worst moment."""
    sources = [*(ROOT / "db").glob("verify*.py"), ROOT / "ops" / "lost_messages.py"]
    code = "\n".join(path.read_text() for path in sources)
    assert [kind for kind in KINDS if f'"{kind}"' not in code] == []
    assert all(what and cure for what, cure in KINDS.values())


def test_messages_of_unknown_batches_are_named(cli_here: Cli, ledger: Database, own_redis: RedisServer) -> None:
    """After a restore, Redis still knows of batches that the copy has never seen: those are to be submitted again."""
    batch = judged(ledger)
    with own_redis.client() as client:
        for number, chunk in ((batch, 0), (batch, 7), (99, 0), (99, 1)):
            body = base64.b64encode(json.dumps([[], {"batch": number, "chunk": chunk}, {}]).encode()).decode()
            client.lpush("audit.v1.bulk.demo-123456", json.dumps({"body": body}))
        client.lpush("audit.v1.bulk.demo-123456", "no message")
    shown = cli_here("verify", "--redis", "--json", REDIS_URL=own_redis.url)
    assert shown.returncode == 1
    found = {
        (each["kind"], each["batch"], each["chunk"], each["count"]) for each in json.loads(shown.stdout)["findings"]
    }
    assert found == {("message_without_chunk", batch, 7, 1), ("message_without_batch", 99, None, 2)}


def test_redis_that_is_away_has_status_75(cli_here: Cli, ledger: Database) -> None:
    """What could not be looked at must not read as sound."""
    judged(ledger)
    shown = cli_here("verify", "--redis", REDIS_URL="redis://127.0.0.1:1/0")
    assert shown.returncode == 75
    assert shown.stdout.splitlines()[-1] == "not looked at to its end: nothing found so far"


def test_what_was_found_before_redis_failed_is_told(cli_here: Cli, ledger: Database) -> None:
    """Minutes of reading ten million pairs, thrown away for a Redis that restarts."""
    judged(ledger)
    spoiled(ledger, "UPDATE outcomes SET attempt = 0 WHERE row = 1")
    shown = cli_here("verify", "--redis", REDIS_URL="redis://127.0.0.1:1/0")
    finding, counts, verdict = shown.stdout.splitlines()
    assert (shown.returncode, verdict) == (75, "not looked at to its end: 1 finding of 1 kind")
    assert finding.startswith("bad_attempt: batch 1, chunk 0: outcomes with an impossible attempt (row 1)")
    assert counts.startswith("1 batch, 4 pairs = 4 verdicts, ")
    value = json.loads(cli_here("verify", "--redis", "--json", REDIS_URL="redis://127.0.0.1:1/0").stdout)
    assert (value["ok"], value["complete"], value["kinds"]) == (False, False, {"bad_attempt": 1})


@pytest.mark.skipif(not hasattr(pty, "openpty"), reason="this system has no terminals")
def test_ctrl_c_ends_it_with_status_130(environment: dict[str, str], ledger: Database, tmp_path: Path) -> None:
    """On ten million pairs it takes minutes, and nobody should have to kill it; a terminal shows how far it is."""
    batch_of(ledger, 400)
    controller, terminal = pty.openpty()
    slow = (
        # Whoever is started in the background of a shell ignores SIGINT, and so do its children.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys, time, db.verify as v; n = v.look_at_chunks\n"
        "def look(*a):\n time.sleep(0.3); return n(*a)\n"
        "v.look_at_chunks, v.SLICE_CHUNKS = look, 1\n"
        "from ops.cli import main; main(['verify'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    while b"batch 1" not in shown:
        shown += os.read(controller, 1000)
    process.send_signal(signal.SIGINT)
    try:
        while chunk := os.read(controller, 1000):
            shown += chunk
    except OSError:
        pass  # the other end is closed
    os.close(controller)
    assert process.wait(timeout=60) == 130
    assert b"stopped; until then 0 findings" in shown
