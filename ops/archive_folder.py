"""The folder of a month's archive: there whole or not at all, and checked by its own checksums."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from audit.errors import Permanent, Transient, UsageError

SUMS = "SHA256SUMS"


@contextmanager
def filled_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, beside `target`, which it replaces when the block ends well; else it is removed.

    What is written last, here, is SHA256SUMS, as `sha256sum --check` reads it. Raises Transient (`archive_busy`) while
    another process fills it, UsageError (`bad_output`), OSError. What a killed process left is cleared.
    """
    part, old = (target.with_name(f".{target.name}.{ending}") for ending in ("part", "old"))
    _make(part, target)
    descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _lock(descriptor, part)
        _empty(part)
        if not target.exists() and old.exists():  # a predecessor was killed between two renames
            os.rename(old, target)
        try:
            yield part
            if any(part.iterdir()):
                _write_sums(part)
                os.fsync(descriptor)
                _replace(part, target, old)
        finally:
            with suppress(OSError):
                if os.stat(part).st_ino == os.fstat(descriptor).st_ino:
                    shutil.rmtree(part)
    finally:
        os.close(descriptor)


def check(folder: Path) -> list[str]:
    """What is wrong with an archive: files that are missing or that are not as they were written, in words."""
    wrong = []
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        path = folder / name
        if name != os.path.basename(name) or not path.is_file():
            wrong.append(f"{name} is missing")
        elif _digest(path) != digest:
            wrong.append(f"{name} is not as it was written")
    return wrong


def is_archive(folder: Path) -> bool:
    """Whether there is one, whole or damaged. Raises UsageError for anything else that is in the way."""
    if (folder / SUMS).is_file():
        return True
    if not os.path.lexists(folder) or (folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())):
        return False
    raise UsageError("bad_output", f"{folder} is there, and is no archive of this command: name another one")


def _make(part: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise Permanent("bad_output", f"{target}: {error.strerror}: name a folder that can be written") from error


def _lock(descriptor: int, part: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = os.path.exists(part) and os.stat(part).st_ino == os.fstat(descriptor).st_ino
    except BlockingIOError:
        held = False
    if not held:
        raise Transient("archive_busy", f"another process writes {part}: wait for it")


def _empty(part: Path) -> None:
    for entry in part.iterdir():
        entry.unlink()


def _replace(part: Path, target: Path, old: Path) -> None:
    """Two renames at most; between them nothing is there, and `old` is put back by whoever comes next."""
    if old.exists():
        shutil.rmtree(old)
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(part, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
    parent = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _write_sums(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    lines = "".join(f"{_digest(folder / name)}  {name}\n" for name in names)
    write_file(folder / SUMS, lines.encode())


def write_file(path: Path, data: bytes) -> None:
    """Write a small file down to the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
