"""When a worker is started again, how long that waits, and what is written down of it."""

import json
from pathlib import Path

import pytest

from audit.errors import Unavailable
from audit.settings import Settings
from ops.restarts import MOST_BYTES, Ended, Restarts, write_down
from tests.conftest import make_settings


def ended(cause: str = "it died", said: str | None = None) -> Ended:
    return Ended(pid=7, cause=cause, status=-9, said=said, lived_s=1.25)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path, guard_tries=5, guard_first_wait_s=1, guard_longest_wait_s=6)


def test_waits_double_up_to_the_longest_and_start_anew_after_progress(settings: Settings) -> None:
    """A worker that dies at once must not be started in a tight loop; one that worked for a day may come back soon."""
    restarts = Restarts(settings, jitter=lambda: 1.0)
    assert [restarts.wait_s(ended()) for _ in range(4)] == [1, 2, 4, 6]
    restarts.progressed()
    assert (restarts.fruitless, restarts.wait_s(ended())) == (0, 1)


def test_jitter_keeps_workers_that_died_together_from_coming_back_together(settings: Settings) -> None:
    """A fleet on one broken file server would hit it again in one moment."""
    waits = [Restarts(settings).wait_s(ended()) for _ in range(50)]
    assert all(0.8 <= wait_s <= 1.2 for wait_s in waits)
    assert len(set(waits)) > 10


def test_after_five_restarts_without_progress_it_is_given_up_with_the_causes(settings: Settings) -> None:
    """A supervisor that goes on for ever hides a broken machine; the last words must be enough to look further."""
    restarts = Restarts(settings)
    for number in range(5):
        restarts.wait_s(ended(f"cause {min(number, 2)}"))
    with pytest.raises(Unavailable) as given_up:
        restarts.wait_s(ended("cause 3", said="no such device"))
    assert given_up.value.exit_status == 69
    assert given_up.value.detail == (
        "the worker was started again 5 times without progress: cause 1; cause 2; cause 3; it said last: no such device"
    )


def test_each_restart_is_a_line_for_its_owner_alone_and_the_file_is_bounded(tmp_path: Path) -> None:
    """Last words may hold paths and names; and a worker that dies every minute for a month must not fill the disk."""
    write_down(tmp_path, ended(said="two\nlines \x1b[2J"), wait_s=1.5, fruitless=1)
    path = tmp_path / "logs" / "restarts.jsonl"
    (line,) = path.read_text().splitlines()
    told = json.loads(line)
    assert told.pop("at").endswith("Z")
    assert told == {
        "pid": 7,
        "cause": "it died",
        "ended": "SIGKILL",
        "said": "two\nlines \x1b[2J",
        "lived_s": 1.2,
        "wait_s": 1.5,
        "without_progress": 1,
    }
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("x" * (MOST_BYTES + 1))
    write_down(tmp_path, ended(), wait_s=None, fruitless=6)
    write_down(tmp_path, ended(), wait_s=None, fruitless=6)
    assert len(path.read_text().splitlines()) == 1
    assert sorted(one.name for one in path.parent.iterdir()) == ["restarts.jsonl", "restarts.jsonl.1"]


def test_a_disk_that_does_not_take_the_line_disturbs_nothing(tmp_path: Path) -> None:
    """The restart is worth more than its record."""
    (tmp_path / "logs").write_text("a file where the folder should be")
    write_down(tmp_path, ended(), wait_s=1.0, fruitless=1)
