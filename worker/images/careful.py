"""Careful decoding: in a throwaway process without a model, so that a picture that kills its decoder is named.

Used for a chunk that has already cost a worker process its life. Not multiprocessing: a Celery child is daemonic and
may have no children of that kind, and a fork would copy the model.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from PIL import Image

from audit.errors import BadImage, Transient
from worker.captions import show
from worker.images import careful_wire as wire
from worker.images.codes import DECODER_CRASHED, DECODER_TIMEOUT, IMAGE_CODES, IMAGE_FLAGS
from worker.images.decode import Decoded
from worker.images.header import KINDS
from worker.images.limits import ImageLimits

START_LIMIT_S = 15.0
"""Starting takes about 0.1 s; a host that is busy with loading models may need much longer."""
MEMORY_BYTES = 1 << 31
BYTES_A_PIXEL = 32
"""libwebp holds two RGBA canvases, Pillow two more pictures: 4 x 4 bytes, doubled."""
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from worker.images.careful_child import main; main(sys.argv[1:])"
_PACKAGES = str(Path(__file__).resolve().parents[2])
_SECRET_NAME = re.compile(r"PASSW|SECRET|TOKEN|_KEY|APIKEY|CREDENTIAL|_URL$|_DSN$|_URI$|^(AWS|PG|OTEL)", re.I)
_INSTRUMENTED = "auto_instrumentation"
_SECRET_VALUE = re.compile(r"://[^/\s]*@")


class _Died(Exception):
    """The process ended in the middle of a picture; the text says how."""


class CarefulDecoder:
    """Reads and decodes pictures in a process of their own, which starts with the first one and again after a death.

    A context manager, for one thread at a time. The process inherits PYTHONPATH and LD_PRELOAD, and no secrets.
    """

    def __init__(self, *, limits: ImageLimits, decode_limit_s: float) -> None:
        self._limits = limits
        self._limit_s = decode_limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def decode(self, reference: str, *, root: Path) -> Decoded:
        """As load_picture(), and raises BadImage `decoder_crashed` or `decoder_timeout` when it does not survive.

        A picture is blamed for a death only when a fresh process dies of it as well; for a timeout at once, because
        the limit has been waited for. Raises Transient (`decoder_start`) when no process can be had.
        """
        try:
            return self._ask(reference, root)
        except _Died:
            pass  # Perhaps of an earlier picture, or by the kernel's choice: the second death decides.
        try:
            return self._ask(reference, root)
        except _Died as death:
            raise BadImage(DECODER_CRASHED, f"decoding it killed its process, twice: {death}") from None

    def close(self) -> None:
        """End the process; the next decode() would start another."""
        channel, process, self._channel, self._process = self._channel, self._process, None, None
        if channel is not None:
            channel.close()
        if process is not None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # One that hangs in the kernel is left to it.
                process.wait(timeout=5.0)

    def _ask(self, reference: str, root: Path) -> Decoded:
        channel = self._ready_channel()
        deadline = time.monotonic() + self._limit_s
        request = {
            "reference": reference,
            "root": os.path.abspath(root),
            "limits": wire.limits_to_json(self._limits),
            "limit_s": self._limit_s,
        }
        try:
            channel.settimeout(self._limit_s)
            wire.send(channel, request)
            answer = wire.receive(channel, deadline)
            return self._read(channel, answer, deadline)
        except TimeoutError:
            self.close()
            raise BadImage(
                DECODER_TIMEOUT, f"decoding it took over {self._limit_s:g} s (AUDIT_DECODE_LIMIT_S)"
            ) from None
        except wire.Closed:
            raise _Died(self._bury()) from None
        except (ValueError, KeyError, TypeError):
            self.close()
            raise _Died("it answered nonsense") from None
        except (BadImage, Transient):
            raise  # Answers: the channel is in step.
        except BaseException:
            self.close()  # A time limit or ctrl-C in the middle of an answer: the next one would be misread.
            raise

    def _read(self, channel: socket.socket, answer: Mapping[str, Any], deadline: float) -> Decoded:
        """Parse an answer as the untrusted text that it is; ValueError, KeyError and TypeError mean nonsense."""
        if "transient" in answer:
            raise Transient(show(str(answer["transient"]), 60), show(str(answer["detail"]), 300))
        if "code" in answer:
            if answer["code"] not in IMAGE_CODES:
                raise ValueError("an unknown code")
            raise BadImage(answer["code"], show(str(answer["detail"]), 500))
        width, height = int(answer["width"]), int(answer["height"])
        flags = tuple(answer["flags"])
        if not (width > 0 and height > 0 and width * height <= self._limits.max_image_pixels):
            raise ValueError("an impossible size")
        if not IMAGE_FLAGS.issuperset(flags) or not re.fullmatch(r"[0-9a-f]{64}", str(answer["sha256"])):
            raise ValueError("unknown flags or an impossible hash")
        kind = KINDS[KINDS.index(answer["format"])]
        pixels = wire.receive_bytes(channel, 3 * width * height, deadline)
        image = Image.frombytes("RGB", (width, height), bytes(pixels))
        sha256 = str(answer["sha256"])
        return Decoded(
            image=image,
            flags=flags,
            sha256=sha256,
            width=width,
            height=height,
            format=kind,
            mode=show(str(answer["mode"]), 12),
            file_bytes=int(answer["bytes"]),
        )

    def _ready_channel(self) -> socket.socket:
        if self._channel is not None and self._process is not None and self._process.poll() is None:
            return self._channel
        self.close()
        try:
            return self._started()
        except OSError as error:  # a full disk, no descriptors left: no picture's fault
            self.close()
            raise Transient("decoder_start", f"the careful process does not start: {error.strerror}") from error

    def _started(self) -> socket.socket:
        with tempfile.TemporaryFile() as complaints:
            self._process, self._channel = self._start(complaints)
            try:
                wire.receive(self._channel, time.monotonic() + START_LIMIT_S)
            except (wire.Closed, TimeoutError, ValueError):
                self.close()
                complaints.seek(0)
                last = complaints.read(100_000).decode("utf-8", "replace").strip().rpartition("\n")[2]
                raise Transient("decoder_start", f"the careful process does not start: {show(last, 200)}") from None
        return self._channel

    def _start(self, complaints: IO[bytes]) -> tuple[subprocess.Popen[bytes], socket.socket]:
        ours, theirs = socket.socketpair()
        # The kernel sends the parent-death signal when the starting *thread* ends, so only the main one may ask for it.
        with_parent = threading.current_thread() is threading.main_thread()
        memory = max(MEMORY_BYTES, MEMORY_BYTES // 2 + BYTES_A_PIXEL * self._limits.max_image_pixels)
        arguments = [str(theirs.fileno()), str(os.getpid()), str(int(with_parent)), str(memory)]
        with theirs:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _BOOT, _PACKAGES, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=complaints,
                    pass_fds=(theirs.fileno(),),
                    env=without_secrets(os.environ),
                )
            except OSError as error:
                ours.close()
                raise Transient("decoder_start", f"the careful process does not start: {error.strerror}") from error
        return process, ours

    def _bury(self) -> str:
        """How the process ended, in words."""
        process = self._process
        status: int | None = None
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(timeout=5.0)
        self.close()
        if status is None:
            return "it stopped answering"
        if status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else "unknown"
            return f"signal {-status} ({name})"
        return f"exit status {status}"


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment less what looks like a secret or a connection, by name or by a password in a URL.

    And less what `opentelemetry-instrument` would have it do at its start: nobody is told of its spans.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if not _SECRET_NAME.search(name) and not _SECRET_VALUE.search(value)
    }
    if "PYTHONPATH" in kept:
        folders = kept["PYTHONPATH"].split(os.pathsep)
        kept["PYTHONPATH"] = os.pathsep.join(one for one in folders if os.path.basename(one) != _INSTRUMENTED)
    return kept
