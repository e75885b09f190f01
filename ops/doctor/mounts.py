"""Which file system a folder lies on, and how it is mounted: from /proc/self/mountinfo."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "afs", "ocfs2"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "virtiofs"}
)
FLEETING = frozenset({"tmpfs", "ramfs", "overlay", "aufs"})
"""Gone with the machine's start, or with the container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo, as proc(5) has it."""

    point: str
    kind: str
    options: frozenset[str]

    @property
    def shown(self) -> str:
        """Kind, and what of its options matters here."""
        return ", ".join([self.kind, *sorted(self.options & {"ro", "noexec"})])


def read_mounts() -> list[Mount]:
    """Every mount of this process's namespace; none where there is no such file."""
    try:
        return parse(MOUNTS.read_text(errors="surrogateescape").splitlines())
    except OSError:
        return []


def parse(lines: Iterable[str]) -> list[Mount]:
    """`36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`, a mount a line."""
    found = []
    for line in lines:
        own, separator, of_disk = line.partition(" - ")
        words, more = own.split(), of_disk.split()
        if separator and len(words) >= 6 and more:
            # Read-only may be the mount or the file system below it.
            options = {*words[5].split(","), *(more[2].split(",") if len(more) > 2 else ())}
            found.append(Mount(point=_unescaped(words[4]), kind=more[0], options=frozenset(options)))
    return found


def mount_of(folder: Path, mounts: Iterable[Mount]) -> Mount | None:
    """The mount that a folder, or what will be one, lies on: the longest point; of two on one place the later one."""
    path = os.path.realpath(folder)
    best = None
    for mount in mounts:
        inside = path == mount.point or path.startswith(f"{mount.point.rstrip('/')}/")
        if inside and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _unescaped(point: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), point)
