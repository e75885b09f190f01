"""Disks that are full, read-only, fleeting or far away, and files that others may read or this user may not write."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from audit.settings import Settings
from ops.doctor.disk import mount_lines, room_lines, shared_memory_lines
from ops.doctor.lines import Line, State
from ops.doctor.mounts import mount_of, parse, read_mounts
from ops.doctor.permissions import file_lines, home_lines, secret_lines
from tests.conftest import make_settings
from tests.ops.doctor.conftest import Named
from tests.support.small_disk import small_disk

NOBODY = 65534


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An AUDIT_HOME that is there."""
    made = make_settings(tmp_path)
    made.home.mkdir(mode=0o755)
    return made


def home_room(settings: Settings) -> Line:
    return next(line for line in room_lines(settings) if "AUDIT_HOME" in line.name)


def test_a_full_disk_is_wrong_and_room_again_is_not(settings: Settings) -> None:
    """Chunks are not claimed any more; it should be told before a worker meets it."""
    with small_disk(settings.home, kilobytes=150_000) as disk:
        assert home_room(settings).state is State.WARNING, "little room is a warning"
        disk.fill()
        assert home_room(settings).state is State.WRONG
        disk.make_room()
        assert home_room(settings).state is State.WARNING


def test_each_disk_is_told_once(settings: Settings) -> None:
    """AUDIT_HOME and its logs are one disk, unless somebody mounted one of them."""
    (settings.home / "logs").mkdir()
    told = [line.name for line in room_lines(settings)]
    assert any("AUDIT_HOME, logs" in name for name in told)
    with small_disk(settings.home / "logs", kilobytes=1_000):
        told = [line.name for line in room_lines(settings)]
        assert "room for logs" in told


def test_a_disk_that_is_read_only_is_wrong(settings: Settings) -> None:
    """Disks become so by themselves, after errors; and containers have read-only roots."""
    with small_disk(settings.home, kilobytes=1_000):
        states = {line.name: line.state for line in mount_lines(settings)}
        assert states["mount of AUDIT_HOME"] is State.WARNING, "a tmpfs does not last"
        subprocess.run(["mount", "-o", "remount,ro", str(settings.home)], check=True, timeout=30)
        states = {line.name: line.state for line in mount_lines(settings)}
        assert states["mount of AUDIT_HOME"] is State.WRONG


# Mounting one needs a server; these are the lines that the kernel would show.
FAR = "90 30 0:50 / {home} rw,relatime shared:9 - nfs4 nas:/export rw,vers=4.2,addr=192.0.2.1"
NEAR = "30 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"


def test_a_ledger_over_the_network_is_wrong(settings: Settings, named: Named) -> None:
    """SQLite's WAL damages a ledger there, on a day on which two hosts write."""
    mounts = parse([NEAR, FAR.format(home=settings.home)])
    line = named(mount_lines(settings, mounts), "mount of AUDIT_HOME")
    assert (line.state, "nfs4" in line.found) == (State.WRONG, True)
    on_postgresql = make_settings(settings.home.parent, database_url="postgresql://me@127.0.0.1/ledger")
    assert named(mount_lines(on_postgresql, mounts), "mount of AUDIT_HOME").state is State.WARNING
    assert named(mount_lines(settings, parse([NEAR])), "mount of AUDIT_HOME").state is State.OK


def test_mounts_are_read_as_the_kernel_writes_them(tmp_path: Path) -> None:
    """Spaces are escaped, the longest point counts, and of two on one point the later one."""
    mounts = parse(
        [NEAR, r"31 30 0:5 / /with\040space rw - tmpfs none rw", "32 30 0:6 / /with\\040space ro - 9p x rw", "?"]
    )
    found = mount_of(Path("/with space/x"), mounts)
    assert found is not None
    assert (found.point, found.kind, "ro" in found.options) == ("/with space", "9p", True)
    assert mount_of(Path("/without"), mounts) == parse([NEAR])[0]
    assert mount_of(tmp_path, read_mounts()) is not None


def test_shared_memory_is_there_and_has_room(tmp_path: Path, named: Named) -> None:
    """Celery's pool makes its semaphores there; a container may have none."""
    assert named(shared_memory_lines(), "shared memory").state is State.OK
    assert named(shared_memory_lines(tmp_path / "absent"), "shared memory").state is State.WRONG
    with small_disk(tmp_path / "shm", kilobytes=100):
        assert named(shared_memory_lines(tmp_path / "shm"), "shared memory").state is State.WRONG


@pytest.mark.parametrize(("mode", "state"), [(0o600, State.OK), (0o640, State.WRONG), (0o604, State.WRONG)])
def test_a_password_that_others_can_read_is_wrong(settings: Settings, named: Named, mode: int, state: State) -> None:
    """And it stays as it is: the doctor mends nothing."""
    path = settings.home / "flower-password"
    path.write_text("hunter2222")
    path.chmod(mode)
    line = named(secret_lines(settings), "flower-password")
    assert (line.state, "hunter2222" in repr(line)) == (state, False)
    assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(("mode", "state"), [(0o700, State.OK), (0o755, State.OK), (0o777, State.WRONG)])
def test_a_home_that_everybody_may_write_is_wrong(settings: Settings, named: Named, mode: int, state: State) -> None:
    """Whoever may replace a model or a ledger decides what verdicts say."""
    settings.home.chmod(mode)
    assert named(home_lines(settings), "AUDIT_HOME").state is state


def test_a_home_that_is_not_there_is_a_warning(tmp_path: Path, named: Named) -> None:
    """Before the first start it is as it should be."""
    assert named(home_lines(make_settings(tmp_path)), "AUDIT_HOME").state is State.WARNING
    assert not (tmp_path / "home").exists()


def test_a_home_that_is_a_file_is_wrong(tmp_path: Path, named: Named) -> None:
    """A typing error in AUDIT_HOME."""
    (tmp_path / "home").write_text("")
    assert named(home_lines(make_settings(tmp_path)), "AUDIT_HOME").state is State.WRONG


def test_what_a_run_as_root_left_behind_is_named() -> None:
    """It works for root, once; afterwards the service's own user cannot write its ledger."""
    if os.geteuid() != 0:
        pytest.skip("only root can leave files that another user may not write")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chown(folder, NOBODY, NOBODY)
        file = Path(folder) / "audit.db"
        file.write_text("")
        settings = Settings.model_validate({"home": folder})
        assert as_nobody(lambda: [*home_lines(settings), *file_lines(settings)]) == [
            ["AUDIT_HOME", "ok", f"{folder}, mode 0700"],
            ["files", "wrong", f"cannot be written: {file}"],
        ]


def as_nobody(look: Callable[[], list[Line]]) -> list[list[str]]:
    """Name, state and what was found, as another user's process sees it: one that has loaded this code already."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            told = json.dumps([[line.name, line.state.value, line.found] for line in look()])
            os.write(write, told.encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    lines: list[list[str]] = json.loads(text)
    return lines


def test_files_of_this_user_are_ok(settings: Settings, named: Named) -> None:
    """The usual case; and of a home that is not there nothing is said."""
    (settings.home / "audit.db").write_text("")
    assert named(file_lines(settings), "files").state is State.OK
    assert list(file_lines(make_settings(settings.home / "absent"))) == []
