"""The careful process: reads and decodes one picture at a time, holds no model, and may die.

Started by careful.py with a socket's number and its parent's id; it ends when the socket closes.
"""

import ctypes
import math
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from audit.errors import BadImage, Transient
from worker.images import careful_wire as wire
from worker.images.codes import IMAGE_TOO_LARGE

PR_SET_PDEATHSIG = 1
OPEN_FILES = 64
WRITTEN_BYTES = 1 << 20
"""A decoder has nothing to write but a complaint on stderr."""
ALARM_AFTER_S = 2.0
"""The parent kills at the limit; this is for a picture that outlives its parent."""


def main(arguments: list[str]) -> None:
    """Arguments: socket, parent's process id, 1 to die with the parent's thread, bytes of memory (0: no limit)."""
    handle, parent, with_parent, memory_bytes = (int(argument) for argument in arguments)
    _confine(memory_bytes)
    if with_parent:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    channel = socket.socket(fileno=handle)
    # Imported under the limits: Pillow and its libraries are what they are for.
    from worker.images.load import load_picture

    wire.send(channel, {"ready": True})
    while True:
        try:
            request = wire.receive(channel)
        except wire.Closed:
            return
        _arm(request["limit_s"])
        answer, pixels = _answer(request, load_picture)
        try:
            wire.send(channel, answer, pixels)
        except wire.Closed:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)


def _confine(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (WRITTEN_BYTES, WRITTEN_BYTES))
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    # What a worker's child ignores or blocks is inherited; these two must work.
    for number in (signal.SIGALRM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # Ctrl-C and a service manager's TERM reach the whole group: dying of them would look like the picture's doing.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _arm(limit_s: float) -> None:
    """Death for a picture that takes too long, by the clock and by the processor's time."""
    signal.setitimer(signal.ITIMER_REAL, limit_s + ALARM_AFTER_S)
    spent = math.ceil(time.process_time() + limit_s + ALARM_AFTER_S)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (spent, hard))


def _answer(request: dict[str, Any], load_picture: Any) -> tuple[dict[str, Any], bytes]:
    try:
        limits = wire.limits_from_json(request["limits"])
        decoded = load_picture(request["reference"], root=Path(request["root"]), limits=limits)
        pixels: bytes = decoded.image.tobytes()
    except BadImage as error:
        return {"code": error.code, "detail": error.detail}, b""
    except Transient as error:
        return {"transient": error.code, "detail": error.detail}, b""
    except MemoryError:
        return {"code": IMAGE_TOO_LARGE, "detail": "decoding it takes more memory than the careful process has"}, b""
    size = {"width": decoded.width, "height": decoded.height}
    of_file = {"mode": decoded.mode, "bytes": decoded.file_bytes}
    return {"flags": decoded.flags, "sha256": decoded.sha256, "format": decoded.format, **size, **of_file}, pixels


if __name__ == "__main__":
    main(sys.argv[1:])
