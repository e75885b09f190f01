"""Marked pictures, and the hook that makes the careful process crash or hang on them as a broken decoder would."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from audit.errors import BadImage
from tests.worker.images.pictures import LIMITS, encoded, flag
from worker.images.careful import CarefulDecoder
from worker.images.decode import Decoded
from worker.images.limits import ImageLimits

HOOK = """
import os, signal, sys, time
import PIL.Image
real = PIL.Image.open
def hooked(fp, *args, **kwargs):
    data = fp.read(); fp.seek(0)
    if b"MARK:SEGV" in data: os.kill(os.getpid(), signal.SIGSEGV)
    if b"MARK:ABRT" in data: os.abort()
    if b"MARK:KILL" in data: os.kill(os.getpid(), signal.SIGKILL)
    if b"MARK:EXIT" in data: os._exit(3)
    if b"MARK:HANG" in data: time.sleep(600)
    if b"MARK:SPIN" in data:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        while True: pass
    if b"MARK:MEMORY" in data: bytearray(1 << 40)
    if b"MARK:NOISE" in data:
        print("noise on stdout", flush=True); os.write(1, b"noise"); os.write(2, b"noise")
    if b"MARK:ONCE" in data:
        marker = os.environ["ONCE"]
        if not os.path.exists(marker):
            open(marker, "w").close(); os.kill(os.getpid(), signal.SIGSEGV)
    return real(fp, *args, **kwargs)
PIL.Image.open = hooked
"""


def marked_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with a good picture and one for each way to go wrong."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", str(hook))
    monkeypatch.setenv("ONCE", str(tmp_path / "once"))
    made = tmp_path / "root"
    made.mkdir()
    (made / "good.png").write_bytes(encoded(flag(), "PNG"))
    for mark in ("SEGV", "ABRT", "KILL", "EXIT", "HANG", "SPIN", "MEMORY", "NOISE", "ONCE"):
        (made / f"{mark}.png").write_bytes(encoded(flag(), "PNG") + f"MARK:{mark}".encode())
    return made


def outcome(decoder: CarefulDecoder, reference: str, root: Path) -> Decoded | str:
    """The picture, or the failure in words."""
    try:
        return decoder.decode(reference, root=root)
    except BadImage as error:
        return str(error)


def careful(limit_s: float = 20.0, limits: ImageLimits = LIMITS) -> CarefulDecoder:
    return CarefulDecoder(limits=limits, decode_limit_s=limit_s)


def children() -> list[int]:
    """Pids of this process's living careful processes; servers of other tests are its children too."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE and any("careful_child" in part for part in child.cmdline()):
                found.append(child.pid)
    return found


def wait_until(holds: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
