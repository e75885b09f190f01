"""status, watch, flagged, export and cancel: what people and scripts get."""

import csv
import io
import json
import os
import pty
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from audit.pair import BatchId
from db.engine import Database
from tests.ops.conftest import COMMAND, Cli, bare
from tests.support.ledger_rows import BROKEN, NO, YES, a_pair, add_batch, add_chunk, add_pair
from tests.support.waiting import wait_until

HOSTILE = "\x1b[2J[bold]x[/bold] \u202etxt :smile: \u200b=1"


@pytest.fixture
def finished(ledger: Database) -> BatchId:
    """Three judged pairs and a broken one."""
    batch = add_batch(ledger, name="shoes", created_at=1000.0)
    counts = {"yes": 1, "no": 2, "failed": 1, "flagged": 2, "claimed_at": 1010.0, "done_at": 1012.0}
    add_chunk(ledger, batch, 0, "done", pairs=4, **counts)
    add_pair(ledger, batch, a_pair(0, extra={"shop": "=7"}), **YES)
    add_pair(ledger, batch, a_pair(1, id="-1", caption=HOSTILE, extra={"label": "red"}), **NO)
    add_pair(ledger, batch, a_pair(2, caption='two\r\nlines, "quoted"'), **NO)
    add_pair(ledger, batch, a_pair(3, image="\udcff.png", caption="\t+1"), **BROKEN)
    return batch


def test_status_tells_scripts_batch_state_and_counts(cli: Cli, finished: BatchId) -> None:
    """Scripts wait for `state` and read `counts`; the names are a promise."""
    done = cli("status", f"b{finished}", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "batch": finished,
        "name": "shoes",
        "state": "done",
        "counts": {
            "submitted": 4,
            "yes": 1,
            "no": 2,
            "maybe": 0,
            "failed": 1,
            "flagged": 2,
            "cancelled": 0,
            "remaining": 0,
        },
        "retrying": 0,
        "chunks": {"done": 1},
        "rate": 2.0,
        "eta_s": None,
        "model": "demo",
        "tenant": "default",
        "lane": "bulk",
        "policy": {"labels": ["No"], "p_no_at_least": None},
        "created_at": "1970-01-01T00:16:40Z",
        "started_at": "1970-01-01T00:16:50Z",
        "finished_at": "1970-01-01T00:16:52Z",
        "waits": None,
    }


def test_status_tells_people_what_came_out_and_what_to_do_next(cli: Cli, finished: BatchId) -> None:
    """The first command after a run answers the first questions: how many, what failed, how do I see them."""
    done = cli("status", str(finished))
    assert bare(done.stdout).splitlines() == [
        f"batch {finished} (shoes) is done: 4 of 4 pairs in 2.0 s (2.0 pairs/s), 1 of them failed",
        "  Yes 1, No 2, Maybe 0, failed 1, flagged 2",
        "  failures: image_empty 1",
        f"  to see what was flagged: caption-audit flagged {finished}",
        f"  to see what failed and why: caption-audit export {finished} -o outcomes.csv",
        f"  to judge them again, when that is mended: caption-audit retry {finished}",
    ]


def test_status_without_a_batch_lists_the_newest_first(cli: Cli, ledger: Database, finished: BatchId) -> None:
    """Nobody remembers numbers."""
    newer = add_batch(ledger, name="[red]hats[/red]")
    listed = json.loads(cli("status", "--json").stdout)
    assert [one["batch"] for one in listed] == [newer, finished]
    table = cli("status").stdout
    assert table.index("[red]hats[/red]") < table.index("shoes")


def test_asking_where_there_is_no_ledger_makes_none(cli: Cli, tmp_path: Path) -> None:
    """A mistyped AUDIT_HOME must be said, not answered by an empty ledger that stays behind."""
    asked = cli("status", AUDIT_HOME=str(tmp_path / "typo"))
    assert asked.returncode == 2
    assert "there is no ledger" in asked.stderr
    assert not (tmp_path / "typo").exists()


def test_a_table_shows_hostile_text_as_text(cli: Cli, finished: BatchId) -> None:
    """A caption can neither move the cursor, nor reorder the line, nor be read as markup."""
    shown = cli("flagged", str(finished)).stdout
    assert "\\x1b[2J[bold]x[/bold] \\u202etxt :smile: \\u200b=1" in shown
    assert "two\\x0d\\x0alines" in shown
    assert not {"\x1b", "\u202e", "\u200b"} & set(shown)
    assert shown.endswith("2 of 3 verdicts are flagged; the batch is done\n")


def test_a_limited_table_says_that_there_are_more(cli: Cli, finished: BatchId) -> None:
    """Fifty lines must not look like all."""
    assert (
        "2 of 3 verdicts are flagged (showing 1; --limit shows more)"
        in cli("flagged", str(finished), "--limit", "1").stdout
    )


def test_exported_csv_is_safe_in_spreadsheets_and_whole(cli: Cli, finished: BatchId, tmp_path: Path) -> None:
    """Formulas are disarmed, line breaks and quotes survive, and extra columns never take a fixed column's place."""
    done = cli("export", str(finished), "-o", "out.csv")
    assert (done.returncode, done.stdout) == (0, "")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_bytes().decode(), newline="")))
    names = list(rows[0])
    assert names[:8] == ["id", "image", "caption", "premise", "label", "p_yes", "p_no", "p_maybe"]
    assert names[-2:] == ["shop", "extra_label"]
    assert [row["id"] for row in rows] == ["id-0", "'-1", "id-2", "id-3"]
    assert [row["label"] for row in rows] == ["Yes", "No", "No", ""]
    assert [row["flagged"] for row in rows] == ["false", "true", "true", "false"]
    assert [row["extra_label"] for row in rows] == ["", "red", "", ""]
    assert (rows[0]["p_no"], rows[0]["shop"]) == ("0.0625", "'=7")
    assert rows[2]["caption"] == 'two\r\nlines, "quoted"'
    assert (rows[3]["image"], rows[3]["caption"]) == ("\\udcff.png", "'\t'+1")
    assert (rows[3]["failure_code"], rows[3]["failure_detail"]) == ("image_empty", "zero bytes")


def test_exported_json_lines_hold_the_text_as_it_is(cli: Cli, finished: BatchId) -> None:
    """Programs need no apostrophes; and each line stands for itself."""
    done = cli("export", str(finished), "--format", "jsonl")
    rows = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert [row["id"] for row in rows] == ["id-0", "-1", "id-2", "id-3"]
    assert (rows[1]["caption"], rows[1]["label"], rows[1]["extra_label"]) == (HOSTILE, "No", "red")
    assert (rows[0]["flagged"], rows[1]["flagged"], rows[3]["p_no"]) == (False, True, None)


def test_an_export_that_fails_leaves_the_old_file(cli: Cli, finished: BatchId, tmp_path: Path) -> None:
    """A half-written file would be taken for a whole one; and no leftovers lie about."""
    (tmp_path / "out.csv").write_text("yesterday's")
    full = cli("export", str(finished), "-o", "/dev/full")
    assert (full.returncode, full.stderr) == (1, "caption-audit: No space left on device\n")
    missing = cli("export", str(finished), "-o", "nowhere/out.csv")
    assert missing.returncode == 1
    assert len(missing.stderr.splitlines()) == 1
    assert cli("export", "404", "-o", "out.csv").returncode == 2
    assert (tmp_path / "out.csv").read_text() == "yesterday's"
    assert [name for name in os.listdir(tmp_path) if name.endswith(".part")] == []


def test_a_reader_that_leaves_early_is_no_error(finished: BatchId, environment: dict[str, str]) -> None:
    """`export 17 | head` must not end in a traceback."""
    script = f'"{COMMAND[0]}" -m ops.cli export {finished} --format jsonl | true'
    done = subprocess.run(["bash", "-c", script], check=False, env=environment, capture_output=True, timeout=60)
    assert done.stderr == b""


@pytest.mark.parametrize(
    "arguments",
    [
        *(["status", "seventeen"], ["status", "0"], ["status", "404"], ["flagged"], ["export", "1", "--format", "xml"]),
        *(["watch", "404"], ["cancel", "404"], ["status", "--no-such-option"], ["nonsense"], ["status", "9" * 20]),
    ],
)
def test_a_wrong_request_gets_one_line_and_exit_status_2(
    cli_here: Cli, finished: BatchId, arguments: list[str]
) -> None:
    """Scripts look at the status, people at the line; nobody wants a traceback."""
    refused = cli_here(*arguments)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1
    assert refused.stderr.startswith("caption-audit: ")


def test_a_ledger_that_does_not_answer_is_unavailable(cli: Cli, tmp_path: Path) -> None:
    """Exit status 69 tells a script to look at the database, and no password is shown."""
    gone = cli("status", DATABASE_URL="postgresql://audit:secret@127.0.0.1:1/audit")
    assert gone.returncode == 69
    assert len(gone.stderr.splitlines()) == 1
    assert "secret" not in gone.stderr
    (tmp_path / "junk.db").write_bytes(b"this is no database, " * 100)
    junk = cli("status", DATABASE_URL=f"sqlite:///{tmp_path}/junk.db")
    assert junk.returncode != 0
    assert len(junk.stderr.splitlines()) == 1


def test_cancelling_says_how_many_and_twice_is_harmless(cli: Cli, ledger: Database) -> None:
    """Cancelling keeps what is judged, and the numbers add up."""
    batch = add_batch(ledger)
    add_chunk(ledger, batch, 0, "pending", pairs=7)
    first = cli("cancel", str(batch), "--json")
    assert json.loads(first.stdout) == {"batch": batch, "state": "cancelled", "cancelled": 7}
    assert cli("cancel", str(batch)).stdout == f"cancelled 0 pairs of batch {batch}; 0 outcomes stay\n"
    assert json.loads(cli("status", str(batch), "--json").stdout)["counts"]["cancelled"] == 7


def test_watching_a_finished_batch_ends_at_once_with_its_status(cli: Cli, ledger: Database, finished: BatchId) -> None:
    """0: all judged; 3: done with failures; 1: some pairs get nothing. Lines go to stderr, the result to stdout."""
    seen = cli("watch", str(finished), "--json")
    assert (seen.returncode, json.loads(seen.stdout)["state"]) == (3, "done")
    assert seen.stderr.startswith(f"batch {finished} done: 4 of 4 pairs")
    clean = add_batch(ledger)
    add_chunk(ledger, clean, 0, "done", yes=10, claimed_at=1.0, done_at=2.0)
    assert cli("watch", str(clean)).returncode == 0
    cancelled = add_batch(ledger, state="cancelled", cancelled_at=5.0)
    assert cli("watch", str(cancelled)).returncode == 1


def test_watch_follows_on_a_terminal_and_ctrl_c_leaves_the_batch_alone(
    ledger: Database, environment: dict[str, str]
) -> None:
    """Ctrl-C stops the watching only, says how to go on, and ends with 130."""
    batch = add_batch(ledger)
    add_chunk(ledger, batch, 0, "running", yes=3, claimed_at=time.time(), lease_until=time.time() + 60)
    master, slave = pty.openpty()
    process = subprocess.Popen([*COMMAND, "watch", str(batch)], env=environment, stdout=slave, stderr=slave)
    os.close(slave)
    os.set_blocking(master, False)
    seen = bytearray()

    def shown(text: bytes) -> bool:
        with suppress(OSError):  # nothing to read yet, or the command has closed the terminal
            seen.extend(os.read(master, 65536))
        return text in seen

    wait_until(lambda: shown(b"3/10"), timeout_s=20, what="the bar")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    wait_until(lambda: shown(f"caption-audit watch {batch}".encode()), timeout_s=5, what="how to go on")
    os.close(master)
