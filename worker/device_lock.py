"""Locks that the processes of a host share about one device.

They are a courtesy: nothing is wrong when a lock is not got in time, only slower or out of memory. The kernel drops a
flock with its process, so no death leaves one behind. Containers and users have files, and so locks, of their own.
"""

import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.01
PASS_PATIENCE_S = 10.0
"""Longest that a pass waits for somebody who wants the device alone; well below a lease, which needs passes."""


class Flock:
    """One lock file, opened when it is first needed; without a file that can be opened nothing is locked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @contextmanager
    def exclusive(self, *, patience_s: float) -> Iterator[bool]:
        """Hold it for a block; yields False when somebody else still has it after `patience_s`."""
        got = self.take(fcntl.LOCK_EX, patience_s=patience_s)
        try:
            yield got
        finally:
            self.drop()

    def take(self, kind: int, *, patience_s: float, waiting: Callable[[], None] = lambda: None) -> bool:
        """Take it, shared (LOCK_SH) or not (LOCK_EX); `waiting` is called once, when it is not to be had at once."""
        descriptor, give_up_at, told = self._open(), time.monotonic() + patience_s, False
        while descriptor is not None:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except OSError:
                if not told:
                    told = True
                    waiting()
                if time.monotonic() > give_up_at:
                    return False
                time.sleep(POLL_S)
            else:
                return True
        return False

    def drop(self) -> None:
        """Give it back; nothing happens when it was not held."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _open(self) -> int | None:
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except OSError:
                return None
        return self._descriptor


class DeviceLock:
    """Many passes at a time, or one process alone.

    Who wants the device alone shuts a gate first: passes of others end, give back the memory that they have cached,
    and wait before the gate.
    """

    def __init__(self, folder: Path, device_id: str) -> None:
        name = hashlib.sha256(device_id.encode()).hexdigest()[:16]
        self._gate = Flock(folder / f"{name}.gate")
        self._device = Flock(folder / f"{name}.device")
        self._search = Flock(folder / f"{name}.search")

    @contextmanager
    def passing(self, make_room: Callable[[], None]) -> Iterator[None]:
        """For one pass; `make_room` is called when somebody wants the device alone."""
        give_up_at = time.monotonic() + PASS_PATIENCE_S
        try:
            self._gate.take(fcntl.LOCK_SH, patience_s=PASS_PATIENCE_S, waiting=make_room)
            self._device.take(fcntl.LOCK_SH, patience_s=give_up_at - time.monotonic())
        finally:  # a time limit may end the wait: nobody is to stand before the gate of a process that is leaving
            self._gate.drop()
        try:
            yield
        finally:
            self._device.drop()

    @contextmanager
    def alone(self, *, patience_s: float) -> Iterator[bool]:
        """No other process of this host computes on the device; False when that could not be had in time."""
        give_up_at = time.monotonic() + patience_s
        with (
            self._gate.exclusive(patience_s=patience_s) as shut,
            self._device.exclusive(patience_s=give_up_at - time.monotonic()) as mine,
        ):
            yield shut and mine

    @contextmanager
    def searching(self, *, patience_s: float) -> Iterator[bool]:
        """One process at a time measures; the others' passes go on."""
        with self._search.exclusive(patience_s=patience_s) as mine:
            yield mine


def lock_folder(home: Path) -> Path:
    """A private folder that this user's workers on this host share; AUDIT_HOME/run when it is not to be trusted."""
    shared = Path(tempfile.gettempdir()) / f"caption-audit-{os.getuid()}-devices"
    try:
        shared.mkdir(mode=0o700, exist_ok=True)
        seen = shared.lstat()
    except OSError:
        seen = None
    if seen is not None and stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.getuid() and not seen.st_mode & 0o022:
        return shared
    own = home / "run"
    own.mkdir(parents=True, exist_ok=True)
    return own
