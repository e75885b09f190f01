"""Log files: somebody reads them at three in the morning, and they must not be what woke him up."""

import os
import stat
import time
from pathlib import Path

import pytest

from telemetry.log_files import LogFile, LogLimits
from tests.support.small_disk import small_disk

DAY_S = 86_400
SMALL = LogLimits(file_bytes=1_000, days=7, total_bytes=100_000)


class Clock:
    """Seconds since the epoch, as the test says; begins now, for files have times of the real clock."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    """Names of hosts, of models and of folders are nobody else's business; nor was what an older version wrote."""
    folder = tmp_path / "home" / "logs"
    LogFile(folder, "worker", limits=SMALL).write("one")
    old = folder / "old.log"
    old.write_text("before\n")
    old.chmod(0o644)
    LogFile(folder, "old", limits=SMALL).write("after")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE((folder / name).stat().st_mode) for name in names(folder)] == [0o600, 0o600]
    assert old.read_text() == "before\nafter\n"


def test_a_file_is_rotated_when_it_is_full_and_no_line_is_lost(tmp_path: Path) -> None:
    """Whoever follows a storm through the files must find every line of it, whole and in order."""
    log = LogFile(tmp_path, "worker", limits=SMALL)
    for number in range(200):
        log.write(f"line {number:04d} {'x' * 20}")
    rotated = sorted(path for path in tmp_path.iterdir() if path != log.path)
    assert len(rotated) > 3
    assert max(path.stat().st_size for path in rotated) <= SMALL.file_bytes
    found = [line for path in (*rotated, log.path) for line in path.read_text().splitlines()]
    assert [line.split()[1] for line in found] == [f"{number:04d}" for number in range(200)]


def test_a_new_day_begins_a_new_file(tmp_path: Path) -> None:
    """Also for a process that began anew in between: yesterday's file is yesterday's."""
    clock = Clock()
    log = LogFile(tmp_path, "worker", limits=SMALL, clock=clock)
    log.write("monday")
    clock.now += DAY_S
    log.write("tuesday")
    assert log.path.read_text() == "tuesday\n"
    os.utime(log.path, (clock.now, clock.now))
    clock.now += DAY_S
    LogFile(tmp_path, "worker", limits=SMALL, clock=clock).write("wednesday")
    assert log.path.read_text() == "wednesday\n"
    assert len(names(tmp_path)) == 3


def test_old_files_go_and_the_newest_stay_within_the_bound(tmp_path: Path) -> None:
    """A disk that fills up in a month is an alarm in a month; files of slots that are no more count too."""
    clock = Clock()
    limits = LogLimits(file_bytes=10_000, days=7, total_bytes=60_000)
    for number in range(12):
        kept = tmp_path / f"worker.20260101-000000-{number:03d}.log"
        kept.write_bytes(b"x" * 10_000)
        os.utime(kept, (clock.now - number * 60, clock.now - number * 60))
    for name in ("worker.20250101-000000-000.log", "worker.log.3", "worker-slot-7.log", "redis.log"):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (clock.now - 8 * DAY_S, clock.now - 8 * DAY_S))
    LogFile(tmp_path, "worker", limits=limits, clock=clock).write("x")
    kept_names = [f"worker.20260101-000000-{number:03d}.log" for number in range(4)]
    assert names(tmp_path) == sorted(["redis.log", "worker.log", *kept_names])
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limits.total_bytes


def test_what_is_older_than_the_days_goes_though_there_is_room(tmp_path: Path) -> None:
    """Whoever says seven days means it; a file that nobody writes any more is of a slot that is no more."""
    clock = Clock()
    for name, days in (("worker.20260101-000000-000", 8), ("worker.20260102-000000-000", 6), ("worker-slot-7", 8)):
        (tmp_path / f"{name}.log").write_text("x")
        os.utime(tmp_path / f"{name}.log", (clock.now - days * DAY_S, clock.now - days * DAY_S))
    LogFile(tmp_path, "worker", limits=SMALL, clock=clock).write("x")
    assert names(tmp_path) == ["worker.20260102-000000-000.log", "worker.log"]


def test_many_writers_share_the_bound(tmp_path: Path) -> None:
    """Eight slots with ten megabytes each are eighty: files get smaller, and the sum is what the operator said."""
    limits = LogLimits(file_bytes=10_000, days=7, total_bytes=40_000)
    logs = [LogFile(tmp_path, f"worker-slot-{number}", limits=limits) for number in range(8)]
    for number in range(1_000):
        logs[number % 8].write(f"{number} {'x' * 200}")
        if number % 100 == 99:
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limits.total_bytes + 3_000
    assert all(log.lost == 0 for log in logs)


def test_two_processes_may_write_one_file(tmp_path: Path) -> None:
    """A stopped process goes on after its successor has rotated the file: its lines are in the new one, whole."""
    first, second = (LogFile(tmp_path, "worker-slot-0", limits=SMALL) for _ in range(2))
    for number in range(60):
        first.write(f"first {number} {'x' * 30}")
        second.write(f"second {number} {'y' * 30}")
    found = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert sorted(found) == sorted(
        [f"first {n} {'x' * 30}" for n in range(60)] + [f"second {n} {'y' * 30}" for n in range(60)]
    )


def test_a_file_that_somebody_moved_is_made_anew(tmp_path: Path) -> None:
    """logrotate, or a person who needs the room."""
    log = LogFile(tmp_path, "worker", limits=SMALL)
    log.write("one")
    log.path.rename(tmp_path / "away")
    log.write("two")
    assert log.path.read_text() == "two\n"


def test_a_folder_that_cannot_be_written_costs_lines(tmp_path: Path) -> None:
    """A file of that name, a link to a device: whoever logs goes on."""
    (tmp_path / "file").write_text("")
    in_the_way = LogFile(tmp_path / "file", "worker", limits=SMALL)
    in_the_way.write("lost")
    (tmp_path / "link.log").symlink_to("/dev/full")
    linked = LogFile(tmp_path, "link", limits=SMALL)
    linked.write("lost")
    assert (in_the_way.lost, linked.lost) == (1, 1)


def test_a_full_disk_costs_lines_and_the_next_line_is_whole(tmp_path: Path) -> None:
    """Half a line before the disk was full must not spoil the first one that fits again."""
    limits = LogLimits(file_bytes=10_000_000, days=7, total_bytes=100_000_000)
    with small_disk(tmp_path / "logs", kilobytes=64) as disk:
        log = LogFile(disk.folder, "worker", limits=limits)
        (disk.folder / "ballast").write_bytes(bytes(8_192))
        whole = "x" * 90
        while log.lost < 3:
            log.write(whole)
        disk.make_room()
        log.write("after")
        *before, last = log.path.read_text().splitlines()
        log.close()
    assert last == "after"
    assert set(before[:-1]) == {whole}
    assert before[-1] in whole


def test_rotation_keeps_a_storm_off_a_small_disk(tmp_path: Path) -> None:
    """The disk has room for a tenth of it; what else is written there must find some."""
    with small_disk(tmp_path / "logs", kilobytes=256) as disk:
        log = LogFile(disk.folder, "worker", limits=LogLimits(file_bytes=100_000, days=7, total_bytes=200_000))
        for number in range(30_000):
            log.write(f"line {number} of an error storm, as long as such lines are: {'x' * 100}")
        log.close()
        assert log.lost == 0
        assert sum(path.stat().st_size for path in disk.folder.iterdir()) <= 200_000


@pytest.mark.parametrize("text", ["\ud800", "\x00", "é\u2028"])
def test_any_text_is_written(tmp_path: Path, text: str) -> None:
    """What cleaned it has a bug, perhaps: the line is there all the same."""
    log = LogFile(tmp_path, "worker", limits=SMALL)
    log.write(text)
    assert log.lost == 0
    assert log.path.stat().st_size > 1
