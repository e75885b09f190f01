"""A memory limit of the kernel's own, as a container or a batch system sets it; version 1 and version 2."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


class MemoryGroup:
    """A control group; processes that its members start are members too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, pid: int) -> None:
        """Make the process a member."""
        (self._folder / "cgroup.procs").write_text(str(pid))

    def kills(self) -> int:
        """How often the kernel has killed in it for want of memory."""
        for name in ("memory.events", "memory.oom_control"):
            with suppress(FileNotFoundError):
                told = dict(line.split() for line in (self._folder / name).read_text().splitlines())
                return int(told["oom_kill"])
        return 0

    def empty(self) -> bool:
        return not (self._folder / "cgroup.procs").read_text().strip()


@contextmanager
def memory_group(*, megabytes: int) -> Iterator[MemoryGroup]:
    """A group with a limit for the length of a block; end its members in it. Skips where nobody may make one."""
    version_2 = (V2 / "cgroup.controllers").exists()
    folder = (V2 if version_2 else V1) / f"caption-audit-test-{os.getpid()}"
    try:
        if version_2:
            (V2 / "cgroup.subtree_control").write_text("+memory")
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"a memory limit needs root and a memory cgroup: {error}")
    try:
        limit = "memory.max" if version_2 else "memory.limit_in_bytes"
        (folder / limit).write_text(str(megabytes * 1_000_000))
        if version_2:
            with suppress(OSError):
                (folder / "memory.swap.max").write_text("0")
        group = MemoryGroup(folder)
        yield group
        wait_until(group.empty, timeout_s=30, what="the group's members to be gone")
    finally:
        with suppress(OSError):
            folder.rmdir()
