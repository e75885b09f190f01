"""The command db backup: copies that are whole, of one moment, and never in the place of another file."""

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from db.engine import Database, open_database
from db.record import record
from db.verify import verify_batch
from db.verify_whole import verify_catalogue, verify_file
from tests.ops.conftest import Cli
from tests.support.claims import batch_of, no, take, yes
from tests.support.waiting import wait_until


@pytest.fixture
def written(ledger: Database, sqlite_url: str) -> Iterator[tuple[int, list[int]]]:
    """A batch, and how many outcomes a thread has committed while the test runs."""
    batch = batch_of(ledger, 1200, chunk_pairs=20)
    stop, done = threading.Event(), [0]
    own = open_database(sqlite_url)

    def judge() -> None:
        for number in range(60):
            held = take(own, batch, number)
            for start in range(0, len(held.pairs), 2):
                if stop.is_set():
                    return
                record(own, held, [yes(held.pairs[start]), no(held.pairs[start + 1])])
                done[0] += 2

    thread = threading.Thread(target=judge)
    thread.start()
    yield batch, done
    stop.set()
    thread.join(timeout=60)
    own.close()
    assert not thread.is_alive()


def test_a_copy_under_load_is_of_one_moment(cli_here: Cli, written: tuple[int, list[int]], tmp_path: Path) -> None:
    """Cp would copy pages of different moments, and nobody notices before the restore."""
    batch, done = written
    for number in range(3):
        wait_until(lambda wanted=done[0] + 4: done[0] >= wanted, timeout_s=60, what="commits between two copies")  # type: ignore[misc]  # default
        before = done[0]
        shown = cli_here("db", "backup", f"copy {number}.db", "--json")
        after = done[0] + 2  # one may be committed, and not counted yet
        told = json.loads(shown.stdout)
        assert told == {"file": str(tmp_path / f"copy {number}.db"), "bytes": os.stat(told["file"]).st_size}
        with closing(sqlite3.connect(told["file"])) as connection:
            (held,) = connection.execute("SELECT count(*) FROM outcomes").fetchone()
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert before <= held <= after
        copy = open_database(f"sqlite:///{told['file']}")
        assert [*verify_batch(copy, batch), *verify_catalogue(copy), *verify_file(copy)] == []  # type: ignore[arg-type]  # int
        copy.close()
    assert not list(tmp_path.glob("*.part*"))


def test_a_file_that_is_there_is_not_overwritten(cli_here: Cli, ledger: Database, tmp_path: Path) -> None:
    """Yesterday's backup must survive today's typing error, and so must a link to somewhere else."""
    ledger.close()
    (tmp_path / "old.db").write_text("yesterday's")
    (tmp_path / "link.db").symlink_to(tmp_path / "elsewhere.db")
    for name in ("old.db", "link.db"):
        shown = cli_here("db", "backup", name)
        assert shown.returncode == 2
        assert "is there already, and is not overwritten" in shown.stderr
    assert (tmp_path / "old.db").read_text() == "yesterday's"
    assert not (tmp_path / "elsewhere.db").exists()


def test_a_ledger_that_is_damaged_gives_no_copy(cli_here: Cli, ledger: Database, tmp_path: Path) -> None:
    """The last good backup would be rotated away in favour of a copy of the damage."""
    batch_of(ledger, 400, chunk_pairs=100)
    with ledger.reading() as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'pairs_by_id'"
        root = connection.exec_driver_sql(query).scalar_one()
        size = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    ledger.close()  # the last connection, so that nothing is left in the WAL
    with (tmp_path / "home" / "audit.db").open("r+b") as file:
        file.seek((root - 1) * size + 5)
        file.write(b"\xff\xff\xff")
    shown = cli_here("db", "backup", "copy.db")
    assert shown.returncode == 1
    assert "the ledger is damaged, its copy was thrown away" in shown.stderr
    assert not list(tmp_path.glob("copy.db*"))


def test_where_there_is_no_folder_is_said(cli_here: Cli, ledger: Database) -> None:
    """A nightly job with a disk that is not mounted."""
    ledger.close()
    shown = cli_here("db", "backup", "nowhere/copy.db")
    assert (shown.returncode, "there is no folder" in shown.stderr) == (1, True)


def test_postgresql_is_told_its_own_command(cli_here: Cli) -> None:
    """Nobody should have to look it up; the password stays out of it."""
    url = "postgresql://judge:secret@db.internal:5433/audit"
    shown = cli_here("db", "backup", "audit.dump", DATABASE_URL=url)
    assert shown.returncode == 2
    command = "pg_dump --format=custom --file=audit.dump --host=db.internal --port=5433 --username=judge audit"
    assert command in shown.stderr
    assert "secret" not in shown.stderr
