"""The folder in which a download grows: beside the finished revisions, hidden from them, resumed by the next fetch.

models/<name>/.fetch.lock           held while a fetch of this name is at work
models/<name>/.fetching-<digest>/   files/ that come, cache/ of modelscope; <digest> is that of the hub's listing
models/<name>/<revision>/           published by one rename
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audit.errors import Permanent, Transient

STAGING = ".fetching-"
ASIDE = ".replaced"
SPARE_BYTES = 50_000_000
"""Left free besides what is known to be needed."""


@contextmanager
def only_fetch(folder: Path) -> Iterator[None]:
    """Hold the folder of one name; raises Transient when another process fetches into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The kernel drops it with the process, however that ends; children do not inherit it (PEP 446).
        descriptor = os.open(folder / ".fetch.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Permanent("not_written", f"{folder}: {error.strerror}; check its owner and AUDIT_HOME") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "another host"
            raise Transient(
                "fetch_at_work", f"{folder}: process {who} is fetching into it; wait for it, or try later"
            ) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def staging_folder(folder: Path, digest: str) -> Path:
    """The staging folder of one listing; those of others are of no use any more and go away."""
    mine = folder / f"{STAGING}{digest}"
    for other in folder.glob(f"{STAGING}*"):
        if other != mine:
            shutil.rmtree(other, ignore_errors=True)
    (mine / "files").mkdir(parents=True, exist_ok=True)
    return mine


def check_room(folder: Path, needed: int) -> None:
    """Raise Permanent when so many bytes will not fit."""
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        wanted = f"{(needed + SPARE_BYTES) / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free"
        raise Permanent("disk_full", f"{folder}: {wanted}; make room or set another AUDIT_HOME, then fetch again")


def bytes_in(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def publish(files: Path, target: Path) -> None:
    """Make the finished files visible under their revision, at once and for good."""
    for path in files.iterdir():
        _to_disk(path)
    _to_disk(files)
    aside = target.with_name(f"{ASIDE}-{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():  # damaged, or it would not have been fetched again
        target.rename(aside)
    files.rename(target)
    _to_disk(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
