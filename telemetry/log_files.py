"""Log files: one owner's, rotated by size and day, kept for days, bounded together; a full disk costs lines alone.

A line is one write to a file that is open for appending, so processes may share a file: a place's successor, a process
that was stopped and goes on. Nobody holds a lock: one that is stopped must not stop the others.
"""

import logging
import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from audit.settings import Settings

DAY_S = 86_400
ROTATED = re.compile(r".+\.\d{8}-\d{6}-\d{3}\.log|.+\.log\.\d+")
"""The second form is that of earlier versions."""
NOT_OURS = frozenset({"redis.log"})
"""Redis writes it itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLimits:
    """Bytes of one file, days that a file is kept, bytes of all files in the folder."""

    file_bytes: int
    days: int
    total_bytes: int


def log_file(settings: Settings, name: str) -> "LogFile":
    """One of the files in AUDIT_HOME/logs, as the operator wants them."""
    limits = LogLimits(file_bytes=settings.log_file_bytes, days=settings.log_days, total_bytes=settings.log_total_bytes)
    return LogFile(settings.home / "logs", name, limits=limits)


class LogFile:
    """`NAME.log` in the folder, and `NAME.TIME.log` for what was rotated away. Nothing here raises an OSError.

    The folder is made with mode 0700, files are 0600. Somebody else may move or remove a file: the next line finds out.
    """

    def __init__(self, folder: Path, name: str, *, limits: LogLimits, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._name = folder, name
        self._limits, self._clock = limits, clock
        self._most_bytes = limits.file_bytes
        self._descriptor: int | None = None
        self._inode, self._size, self._day = 0, 0, 0
        self._torn = False
        self.lost = 0  # lines that the disk did not take

    @property
    def path(self) -> Path:
        """Where lines are written to at the moment."""
        return self._folder / f"{self._name}.log"

    def write(self, line: str) -> None:
        """Append the line."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            descriptor = self._ready(len(data))
            # A line that was cut off by a full disk is ended first.
            data = b"\n" + data if self._torn else data
            written = os.write(descriptor, data)
            self._size += written
            self._torn = written < len(data)
            self.lost += self._torn
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def _ready(self, size: int) -> int:
        """The descriptor of a file that has room for so many bytes more."""
        descriptor = self._descriptor if self._is_there() else None
        if descriptor is None:
            descriptor = self._open()
        if self._size and (self._size + size > self._most_bytes or self._today() != self._day):
            self._rotate()
            descriptor = self._open()
        return descriptor

    def _is_there(self) -> bool:
        try:
            return os.stat(self.path).st_ino == self._inode
        except FileNotFoundError:
            return False

    def _open(self) -> int:
        self.close()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = descriptor = os.open(self.path, flags, 0o600)
        seen = os.fstat(descriptor)
        if stat.S_IMODE(seen.st_mode) & 0o077:
            with suppress(OSError):  # another user's, as it seems
                os.fchmod(descriptor, 0o600)
        self._inode, self._size = seen.st_ino, seen.st_size
        # A file that was left by an earlier process belongs to the day of its last line.
        self._day = int(seen.st_mtime // DAY_S) if seen.st_size else self._today()
        self._tidy()
        return descriptor

    def _rotate(self) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(self._clock()))
        for number in range(1_000):
            kept = self._folder / f"{self._name}.{stamp}-{number:03d}.log"
            if not kept.exists():
                os.rename(self.path, kept)
                return

    def _tidy(self) -> None:
        """Remove what is old, then the oldest until the folder's files are within their bounds; never one in use."""
        rotated: list[tuple[float, int, Path]] = []
        current: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("*.log*"):
            with suppress(OSError):  # somebody else tidies too
                seen = path.stat()
                if path.name not in NOT_OURS:
                    (rotated if ROTATED.fullmatch(path.name) else current).append((seen.st_mtime, seen.st_size, path))
        # Those in use grow while nobody looks, so room is kept for each at its largest.
        self._most_bytes = min(self._limits.file_bytes, self._limits.total_bytes // (2 * max(1, len(current))))
        room = self._limits.total_bytes - self._most_bytes * len(current)
        oldest = self._clock() - self._limits.days * DAY_S
        # One that nobody has written to for so long is of a slot that is no more; a late writer makes it anew.
        left = [(at, 0, path) for at, _, path in current if at < oldest and path != self.path]
        for at, size, path in [*sorted(rotated, reverse=True), *left]:
            room -= size
            if at < oldest or room < 0:
                with suppress(OSError):
                    path.unlink()

    def _today(self) -> int:
        return int(self._clock() // DAY_S)


class FileHandler(logging.Handler):
    """Writes formatted records to a LogFile."""

    def __init__(self, file: LogFile) -> None:
        super().__init__()
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; as of every handler, its own errors are nobody's."""
        self.file.write(self.format(record))

    def close(self) -> None:
        """Close the file too."""
        self.file.close()
        super().close()
