"""Disks under AUDIT_HOME, the ledger and the logs: room, how they are mounted; and shared memory."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from audit.settings import Settings
from ops.doctor.lines import Line, ok, warning, wrong
from ops.doctor.mounts import FLEETING, NETWORK, Mount, mount_of, read_mounts

MB, GB = 10**6, 10**9
LITTLE_BYTES = 2 * GB
"""A million pairs take two thirds of a gigabyte of SQLite ledger (docs/results/ledger_size.md)."""
FULL_BYTES = 100 * MB
FEW_FILES = 1_000
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written
SHARED_BYTES = 1 * MB
"""Celery's pool keeps its semaphores there, some hundred bytes each."""


def room_lines(settings: Settings) -> Iterator[Line]:
    """Free bytes and files of each disk that is written to, a line a disk."""
    seen: dict[int, list[str]] = {}
    disks: dict[int, tuple[Path, os.statvfs_result]] = {}
    for name, folder in _folders(settings):
        there = existing(folder)
        device = os.stat(there).st_dev
        seen.setdefault(device, []).append(name)
        disks.setdefault(device, (there, os.statvfs(there)))
    for device, (folder, found) in disks.items():
        yield _room(", ".join(dict.fromkeys(seen[device])), folder, found)


def mount_lines(settings: Settings, mounts: Iterable[Mount] | None = None) -> Iterator[Line]:
    """How the folders' file systems are mounted; `mounts` are this machine's unless they are given."""
    known = list(read_mounts() if mounts is None else mounts)
    for name, folder in _folders(settings):
        mount = mount_of(folder, known)
        if mount is not None and name != "logs":
            yield _mounted(name, folder, mount, holds_ledger=ledger_file(settings) is not None)


def shared_memory_lines(folder: Path = SHARED_MEMORY) -> Iterator[Line]:
    """Whether /dev/shm is there, can be written, and has room."""
    means = "Celery's pool cannot make its semaphores: a worker does not start"
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        cure = "mount a tmpfs there that everybody may write (mode 1777)"
        yield wrong("shared memory", f"{folder} is missing, or cannot be written", means=means, cure=cure)
        return
    found = os.statvfs(folder)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    shown = f"{folder}: {free / MB:,.0f} of {total / MB:,.0f} MB free"
    if free < SHARED_BYTES:
        cure = "remove what fills it; in a container give it more (--shm-size)"
        yield wrong("shared memory", shown, means=means, cure=cure)
    else:
        yield ok("shared memory", shown)


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above that is there: where it would be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def ledger_file(settings: Settings) -> Path | None:
    """The SQLite file of the ledger; None for PostgreSQL."""
    url = settings.ledger_url
    return Path(os.path.abspath(url.removeprefix("sqlite:///"))) if url.startswith("sqlite:///") else None


def _folders(settings: Settings) -> Iterator[tuple[str, Path]]:
    yield "AUDIT_HOME", settings.home
    file = ledger_file(settings)
    if file is not None and file.parent != settings.home:
        yield "the ledger", file.parent
    yield "logs", settings.home / "logs"
    yield "temporary files", Path(tempfile.gettempdir())


def _room(what: str, folder: Path, found: os.statvfs_result) -> Line:
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    name = f"room for {what}"
    shown = f"{free / GB:,.2f} of {total / GB:,.2f} GB free ({folder})"
    cure = "make room, or move AUDIT_HOME; nothing is lost, and workers go on by themselves"
    if free < FULL_BYTES:
        return wrong(name, shown, means="chunks are not claimed any more once it is full", cure=cure)
    if found.f_files and found.f_favail < FEW_FILES:
        left = f"{found.f_favail:,} more files can be made on the disk of {folder}"
        return wrong(name, left, means="it is full of small files, whatever room there is", cure=cure)
    if free < LITTLE_BYTES and not what.startswith("temporary"):
        return warning(name, shown, means="a million pairs take about 0.7 GB of ledger", cure=cure)
    return ok(name, shown)


def _mounted(name: str, folder: Path, mount: Mount, *, holds_ledger: bool) -> Line:
    shown = f"{mount.shown} at {mount.point}"
    label = f"mount of {name}"
    sqlite = holds_ledger and name in ("AUDIT_HOME", "the ledger")
    if "ro" in mount.options:
        return wrong(
            label, f"read-only: {shown}", means=f"nothing can be written to {folder}", cure="mount it read-write"
        )
    if mount.kind in NETWORK and sqlite:
        means = "SQLite's WAL needs memory that its readers and writers share: over a network it damages the ledger"
        return wrong(label, f"over a network: {shown}", means=means, cure="use a disk of this host, or PostgreSQL")
    if mount.kind in NETWORK and name == "AUDIT_HOME":
        means = "locks and sockets under it may not work, and an outage of the network stops everything"
        return warning(label, f"over a network: {shown}", means=means, cure="use a disk of this host")
    if mount.kind in FLEETING and (sqlite or name == "AUDIT_HOME"):
        means = "what is in it is gone with the container, or when the machine starts anew"
        return warning(label, f"does not last: {shown}", means=means, cure="put it on a disk, or in a volume")
    return ok(label, shown)
