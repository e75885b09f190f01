"""Files of every kind: what cannot be read is refused at once, and what is too long before it is read."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.errors import BadImage, Transient
from worker.images.fetch import read_picture
from worker.images.limits import ImageLimits

LIMITS = ImageLimits(max_image_bytes=1_000)
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a picture in it, and a secret beside it."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root-too").mkdir()
    (tmp_path / "root-too" / "a").write_bytes(b"secret")
    made = tmp_path / "root"
    (made / "sub").mkdir(parents=True)
    (made / "sub" / "a.jpg").write_bytes(b"picture")
    return made


def outcome(reference: str, root: Path, limits: ImageLimits = LIMITS) -> bytes | str:
    """The bytes, or the code of the failure."""
    try:
        return read_picture(reference, root=root, limits=limits)
    except BadImage as error:
        return error.code


@pytest.fixture
def short_root() -> Iterator[Path]:
    """A root that everybody may enter, with a path short enough for a socket."""
    made = Path(tempfile.mkdtemp(prefix="ca-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_what_is_no_file_is_refused_and_never_waited_for(short_root: Path) -> None:
    """Opening a FIFO waits for a writer for ever; a device may do anything."""
    (short_root / "folder").mkdir()
    os.mkfifo(short_root / "fifo")
    (short_root / "to-fifo").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_root / "socket"))
        names = ("folder", "folder/", ".", "./", "fifo", "to-fifo", "socket", str(short_root))
        assert {name: outcome(name, short_root) for name in names} == dict.fromkeys(names, "not_a_file")
    assert [outcome(name, Path("/dev")) for name in ("null", "zero", "tty")] == ["not_a_file"] * 3


def test_a_fifo_is_not_even_opened(root: Path) -> None:
    """A writer that waits for a reader would take us for one and send its data into nothing."""
    os.mkfifo(root / "fifo")
    assert outcome("fifo", root) == "not_a_file"
    with pytest.raises(OSError, match="No such device or address"):
        os.open(root / "fifo", os.O_WRONLY | os.O_NONBLOCK)


def test_a_loop_of_links_is_unreadable(root: Path) -> None:
    """The kernel gives up after forty."""
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    assert outcome("one", root) == "file_unreadable"


def test_a_file_without_permission_is_unreadable(short_root: Path) -> None:
    """Asked as a user without rights, for root may read everything."""
    (short_root / "a.jpg").write_bytes(b"picture")
    (short_root / "a.jpg").chmod(0)
    (short_root / "shut").mkdir(mode=0)
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom audit.errors import BadImage\n"
        "from worker.images.fetch import read_picture\nfrom worker.images.limits import ImageLimits\n"
        "if os.getuid() == 0:\n    os.setgroups([])\n    os.setgid(65534)\n    os.setuid(65534)\n"
        "for name in ('a.jpg', 'shut/b.jpg'):\n"
        "    try:\n        read_picture(name, root=Path(sys.argv[1]), limits=ImageLimits())\n"
        "    except BadImage as error:\n        print(error)\n"
    )
    command = [sys.executable, "-c", script, str(short_root)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert run.stdout.splitlines() == [
        "file_unreadable: a.jpg cannot be read: Permission denied",
        "file_unreadable: shut/b.jpg cannot be read: Permission denied",
    ]


def test_the_byte_limit_holds_before_and_while_reading(root: Path) -> None:
    """A sparse file says its size, a file of /proc says 0 and has more."""
    with open(root / "sparse", "wb") as file:
        file.truncate(10_000_000_000)
    (root / "exact").write_bytes(b"x" * 1_000)
    (root / "over").write_bytes(b"x" * 1_001)
    (root / "empty").touch()
    assert [outcome(name, root) for name in ("sparse", "over", "empty")] == [
        "image_too_large", "image_too_large", "image_empty",
    ]  # fmt: skip
    assert outcome("exact", root) == b"x" * 1_000
    assert Path("/proc/self/smaps").stat().st_size == 0
    assert outcome("smaps", Path("/proc/self")) == "image_too_large"


def test_our_own_lack_of_descriptors_blames_no_picture(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leak elsewhere must not turn ten thousand good pairs into failures."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = max(int(name) for name in os.listdir("/proc/self/fd"))
    taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(lowest)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
    try:
        with pytest.raises(Transient):
            read_picture("sub/a.jpg", root=root, limits=LIMITS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for handle in taken:
            os.close(handle)


def test_no_descriptor_is_left_open(root: Path) -> None:
    """A million pairs pass through one process."""
    before = len(os.listdir("/proc/self/fd"))
    for reference in ("sub/a.jpg", "sub", "none", "../x", "/etc/passwd"):
        outcome(reference, root)
    assert len(os.listdir("/proc/self/fd")) == before
