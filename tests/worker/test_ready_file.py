"""What a worker's main process writes of itself, on a disk that takes it and on one that does not."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.small_disk import SmallDisk, small_disk
from worker.ready_file import ReadyFile


def write(file: ReadyFile, *, ready: dict[int, int], waits: str | None = None) -> None:
    pages = "http://127.0.0.1:9464"
    file.write(slots=2, ready=ready, model="demo", waits=waits, pages=pages, finished=7, busy=1)


def told(home: Path) -> Any:
    return json.loads((home / "run" / f"worker-{os.getpid()}.json").read_text())


def complaints(lines: list[Any]) -> list[str]:
    return [line["reason"] for line in lines if line["event"] == "ready file not written"]


def test_it_says_who_is_ready_and_what_the_worker_waits_for(tmp_path: Path) -> None:
    """Health checks and `up` know nothing else of a worker."""
    file = ReadyFile(tmp_path)
    write(file, ready={0: 11, 1: 12}, waits="Redis does not answer")
    assert told(tmp_path) == {
        "pid": os.getpid(),
        "slots": 2,
        "ready": {"0": 11, "1": 12},
        "model": "demo",
        "waits": "Redis does not answer",
        "pages": "http://127.0.0.1:9464",
        "finished": 7,
        "busy": 1,
        "seats": [],
        "resources": {},
    }
    write(file, ready={1: 12})
    assert (told(tmp_path)["ready"], told(tmp_path)["waits"]) == ({"1": 12}, None)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [f"worker-{os.getpid()}.json"]
    file.remove()
    file.remove()
    assert list((tmp_path / "run").iterdir()) == []


def test_on_a_full_disk_it_tells_what_is_new_and_complains_once(tmp_path: Path) -> None:
    """A file that stays as it was is taken for a hang, and a line every second fills what is left."""
    with small_disk(tmp_path / "disk", kilobytes=256) as disk, capture_logs() as lines:
        file = ReadyFile(disk.folder)
        write(file, ready={0: 11, 1: 12})
        _fill(disk)
        for pid in (21, 22, 23):
            write(file, ready={0: pid})
            assert told(disk.folder)["ready"] == {"0": pid}
        assert complaints(lines) == ["No space left on device"]
        disk.make_room()
        write(file, ready={0: 24, 1: 25})
        _fill(disk)
        write(file, ready={0: 26})
        assert told(disk.folder)["ready"] == {"0": 26}
        assert len(complaints(lines)) == 2


def _fill(disk: SmallDisk) -> None:
    disk.fill()
    with pytest.raises(OSError, match="No space"):
        (disk.folder / "more").write_text("x" * 10_000)
    (disk.folder / "more").unlink(missing_ok=True)


def test_a_folder_that_cannot_be_made_costs_a_line_and_no_more(tmp_path: Path) -> None:
    """AUDIT_HOME on a disk that was full from the start: the worker judges all the same."""
    (tmp_path / "run").write_text("in the way")
    with capture_logs() as lines:
        file = ReadyFile(tmp_path)
        write(file, ready={})
        write(file, ready={})
    assert len(complaints(lines)) == 1


def test_systemd_hears_of_it_too(tmp_path: Path) -> None:
    """Its watchdog is the only one on a bare machine that ends a main process that hangs."""
    for name in (str(tmp_path / "notify"), f"@{tmp_path.name}-notify"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(name.replace("@", "\0", 1))
            write(ReadyFile(tmp_path, notify=name), ready={})
            systemd.settimeout(10)
            assert systemd.recv(100) == b"READY=1\nWATCHDOG=1"
    write(ReadyFile(tmp_path, notify=str(tmp_path / "nobody")), ready={1: 12})
    assert told(tmp_path)["ready"] == {"1": 12}
