"""One `up` or `demo` per AUDIT_HOME: a lock that the kernel drops with its process, however that ends."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from audit.errors import Permanent, UsageError
from ops.children import Child


class HomeLock:
    """The held lock; its file says who holds it, and which children a killed holder may have left."""

    def __init__(self, descriptor: int, command: str) -> None:
        self._descriptor = descriptor
        self._command = command
        self._children: list[Child] = []
        self.leftovers = _children(_read(descriptor))
        self._write()

    def add(self, child: Child) -> None:
        """Write a child down as soon as it runs."""
        self._children = [one for one in self._children if one.lives] + [child]
        self._write()

    def _write(self) -> None:
        children = [child.to_json() for child in [*self.leftovers, *self._children]]
        told = {"pid": os.getpid(), "started": time.time(), "command": self._command, "children": children}
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(told).encode(), 0)


@contextmanager
def only_one(home: Path, command: str) -> Iterator[HomeLock]:
    """Hold the home; raises Permanent (`already_running`) naming the process that does, UsageError (`bad_home`)."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        # Not inherited by children (PEP 446): the lock must not live on in a worker when `up` is killed.
        descriptor = os.open(home / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        cure = "set AUDIT_HOME to a folder that can be written"
        raise UsageError("bad_home", f"{home}: {error.strerror}; {cure}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Permanent("already_running", _who(home, _read(descriptor))) from None
        yield HomeLock(descriptor, command)
    finally:
        os.close(descriptor)


def _who(home: Path, told: dict[str, Any]) -> str:
    since = time.strftime("%H:%M:%S on %Y-%m-%d", time.localtime(told.get("started", 0)))
    command, pid = told.get("command", "up"), told.get("pid")
    holder = f"process {pid} (`caption-audit {command}`, since {since})" if pid else "another process"
    return f"{home} is in use by {holder}: stop it, or set another AUDIT_HOME"


def _read(descriptor: int) -> dict[str, Any]:
    try:
        told = json.loads(os.pread(descriptor, 100_000, 0))
    except ValueError:  # empty, or its writer was killed half-way
        return {}
    return told if isinstance(told, dict) else {}


def _children(told: dict[str, Any]) -> list[Child]:
    try:
        return [Child(**child) for child in told.get("children", [])]
    except TypeError:
        return []
