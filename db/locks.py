"""Who holds SQLite's write lock: /proc/locks names the process, which a person can then look at.

In WAL mode writers exclude each other by a POSIX lock on one byte of the `-shm` file beside the database
(https://sqlite.org/walformat.html, "WAL locks"). Linux alone; elsewhere, and in another PID namespace, nobody is named.
"""

import os
from contextlib import suppress
from pathlib import Path

WAL_WRITE_LOCK = 120
"""The byte's offset in the file."""


def write_lock_holder(path: str) -> int | None:
    """The pid of another process that holds the write lock of the SQLite file; None when none can be named."""
    try:
        inode = os.stat(f"{path}-shm").st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    # `1: POSIX  ADVISORY  WRITE 1234 fe:00:5678 120 120`; whoever waits for a lock has a `->` behind the number.
    for line in lines:
        with suppress(ValueError, IndexError):
            _, kind, _, access, pid, where, first, last = line.split()
            held = first.isdigit() and int(first) <= WAL_WRITE_LOCK and (last == "EOF" or int(last) >= WAL_WRITE_LOCK)
            ours = kind == "POSIX" and access == "WRITE" and int(where.rpartition(":")[2]) == inode
            if held and ours and int(pid) not in (0, -1, os.getpid()):
                return int(pid)
    return None


def describe(pid: int) -> str:
    """The process for a person: its number and name, and whether it is stopped."""
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition(" (")[2].rpartition(") ")
    except OSError:
        return f"process {pid}"
    stopped = ", which is stopped" if rest[:1] in ("T", "t") else ""
    return f"process {pid} ({name}){stopped}"
