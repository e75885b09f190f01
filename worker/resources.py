"""What a worker needs besides itself, as its main process last found it: memory, disks, devices, Redis, the ledger.

Found in rounds of housekeeping and kept: whoever asks how the worker is does no I/O for it. What it means is decided in
worker/health.py.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from audit.settings import Settings
from telemetry.devices import read_device
from worker.slots import Slot

LOOK_EVERY_S = 5.0
GROUPS, MINE = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class Resources:
    """`redis` and `ledger` say what is wrong with them just now, None for nothing."""

    def __init__(
        self,
        settings: Settings,
        slots: Sequence[Slot],
        *,
        redis: Callable[[], str | None],
        ledger: Callable[[], str | None],
    ) -> None:
        self._folders = folders_of(settings)
        self._devices = sorted({slot.device for slot in slots} - {"cpu"})
        self._redis, self._ledger = redis, ledger
        self._looked_at: float | None = None
        self._seen: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        """As worker.health.resources_depth() reads it; looks every few seconds. In the main process alone."""
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at > LOOK_EVERY_S:
            self._looked_at = now
            self._seen = {
                "disks": disks(self._folders),
                "memory": list(_memory()),
                "devices": list(_device_memory(self._devices)),
            }
        return {"redis": self._redis(), "ledger": self._ledger(), **self._seen}


def folders_of(settings: Settings) -> list[Path]:
    """Folders whose disks a worker writes to: AUDIT_HOME, and that of a SQLite ledger."""
    url = settings.ledger_url
    return [settings.home, *([Path(url.removeprefix("sqlite:///")).parent] if url.startswith("sqlite:///") else [])]


def disks(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Each disk once; a folder that is not there yet has none."""
    found = {}
    for folder in folders:
        try:
            seen = os.statvfs(folder)
        except OSError:
            continue
        if seen.f_blocks:
            found[seen.f_fsid] = {
                "folder": str(folder),
                "free_bytes": seen.f_bavail * seen.f_frsize,
                "size_bytes": seen.f_blocks * seen.f_frsize,
                "no_files_left": bool(seen.f_files) and not seen.f_favail,
            }
    return list(found.values())


NO_LIMIT = 2**62
"""Control groups of version 1 write the largest number of whole pages where there is no limit."""


def _memory() -> Iterator[dict[str, Any]]:
    host = psutil.virtual_memory()
    yield {"of": "this host", "total_bytes": int(host.total), "free_bytes": int(host.available)}
    limits = [limit for limit in group_limits() if limit["total_bytes"] < host.total]
    if limits:
        yield min(limits, key=lambda limit: int(limit["free_bytes"]))


def group_limits(groups: Path = GROUPS, mine: Path = MINE) -> Iterator[dict[str, Any]]:
    """Limits of this process's control groups and of those above, versions 2 and 1."""
    try:
        lines = mine.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = groups / "memory" if controllers else groups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        folder = root / path.lstrip("/")
        # Inside of a container the root is often the group itself, and the path not there.
        for place in [folder, *(above for above in folder.parents if above.is_relative_to(root))]:
            total, used = (_number(place / name) for name in names)
            if total is not None and used is not None:
                free = total - used + _reclaimable(place / "memory.stat")
                yield {"of": "this container", "total_bytes": total, "free_bytes": min(total, free)}


def _reclaimable(stat: Path) -> int:
    """What the kernel takes back first: pages of files that nobody has looked at for long."""
    try:
        lines = dict(line.split() for line in stat.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(lines.get("total_inactive_file", lines.get("inactive_file", 0)))


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() and int(text) < NO_LIMIT else None  # `max` is none


def _device_memory(devices: Sequence[str]) -> Iterator[dict[str, Any]]:
    for name in devices:
        seen = read_device(name)
        if seen is not None and seen.memory_total_bytes and seen.memory_used_bytes is not None:
            free = seen.memory_total_bytes - seen.memory_used_bytes
            yield {"device": name, "total_bytes": seen.memory_total_bytes, "free_bytes": free}
