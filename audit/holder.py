"""Who holds a chunk: a process, named so that another process of the same host can prove it dead."""

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """One process: host name with its pid namespace, boot, pid, and start time in clock ticks since that boot.

    Pids are reused and containers count them separately; the four together name one process for ever.
    """

    host: str
    boot: str
    pid: int
    started: int


def this_process() -> Holder:
    """The calling process."""
    return Holder(host=_host(), boot=_boot(), pid=os.getpid(), started=start_ticks(os.getpid()) or 0)


def proved_dead(holder: Holder) -> bool:
    """True only if the holder belonged to this host and boot, and no such process exists now; doubt is False."""
    # Another boot id proves nothing: two machines may carry one host name. Such a holder's lease runs out instead.
    if not Path("/proc/self/stat").exists() or (holder.host, holder.boot) != (_host(), _boot()):
        return False
    return start_ticks(holder.pid) != holder.started


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (field 22 of /proc/PID/stat); None if gone or a zombie."""
    try:
        # The command name stands in parentheses and may hold anything: split behind the last one.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


@cache
def _host() -> str:
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}".strip()


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
