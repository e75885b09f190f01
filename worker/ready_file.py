"""What a worker's main process writes of itself once a second, for `caption-audit up` and health checks."""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from telemetry.logs import logger

log = logger(__name__)
BLOCK, ROOM = 4096, 512


class ReadyFile:
    """AUDIT_HOME/run/worker-PID.json. Of the main process alone; a disk that does not take it disturbs nothing."""

    def __init__(self, home: Path, *, notify: str | None = None) -> None:
        self._folder = home / "run"
        self._notify = notify  # systemd's socket (NOTIFY_SOCKET), if it started us
        self._complained: str | None = None
        self.last: tuple[Mapping[str, Any], float] = ({}, 0.0)  # what was told, and when in seconds since the epoch

    def write(
        self,
        *,
        slots: int,
        ready: Mapping[int, int],
        model: str,
        waits: str | None,
        pages: str | None = None,
        finished: int,
        busy: int,
        seats: Sequence[Mapping[str, Any]] = (),
        resources: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell which slots have proved their model, by pid, what the worker waits for, and where its pages are.

        `finished` only grows, with each chunk; `busy` slots have one in hand. `seats`
        are the slots, and `resources` what else is needed, for worker/seen.py.
        """
        told = {"pid": os.getpid(), "slots": slots, "ready": ready, "model": model, "waits": waits, "pages": pages}
        told |= {"finished": finished, "busy": busy, "seats": list(seats), "resources": dict(resources or {})}
        self.last = (json.loads(json.dumps(told)), time.time())  # as whoever reads the file has it
        self._tell_systemd()
        path, text = self._path(), _with_room(json.dumps(told))
        fresh = path.with_suffix(".new")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh.write_text(text)
            fresh.replace(path)
            self._complained = None
        except OSError as error:
            if error.strerror != self._complained:  # once, not every second
                log.warning("ready file not written", reason=error.strerror, path=str(path))
            self._complained = error.strerror
            _write_over(path, text)
            with suppress(OSError):
                fresh.unlink(missing_ok=True)

    def _tell_systemd(self) -> None:
        """That the main process runs and gets on: its watchdog ends one that does not."""
        if not self._notify:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as way:
            way.sendto(b"READY=1\nWATCHDOG=1", self._notify.replace("@", "\0", 1))

    def remove(self) -> None:
        """The last thing that a worker does."""
        self._path().unlink(missing_ok=True)

    def _path(self) -> Path:
        return self._folder / f"worker-{os.getpid()}.json"


def _with_room(text: str) -> str:
    """Blanks up to the end of a block: what is told later, with more digits, is to fit where the disk is full."""
    return text.ljust(-(-(len(text) + ROOM) // BLOCK) * BLOCK)


def _write_over(path: Path, text: str) -> None:
    """Write into the blocks that the file has: a full disk has no others, and silence would be taken for a hang."""
    with suppress(OSError), path.open("r+") as file:
        file.write(text.ljust(path.stat().st_size))
