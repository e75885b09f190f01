"""A compose project of its own: secrets, port and pictures of this run alone, and commands that end in bounded time.

Python's standard library alone, and only what `docker compose` and commands compatible with it have in common.
"""

import os
import secrets
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
IMAGE_TAG = "compose-test"
T = TypeVar("T")


class Failed(Exception):
    """What was expected did not happen; the message says what."""


class Project:
    """Runs compose commands for one project. `say` is told of each step."""

    def __init__(self, command: str, folder: Path, *, say: Callable[[str], None]) -> None:
        self._command = shlex.split(command)
        pictures = folder / "pictures"
        pictures.mkdir(mode=0o755)  # the worker reads them as a user of its own
        self.say = say
        self.values = _values(pictures)
        name = f"caption-audit-test-{secrets.token_hex(3)}"
        # What the caller's shell has set would win over the file, in every compose command.
        inherited = {key: value for key, value in os.environ.items() if key not in self.values}
        inherited.pop("COMPOSE_FILE", None)
        self._environ = inherited | {"COMPOSE_PROJECT_NAME": name}
        self._env_file = folder / "env"
        self._env_file.touch(mode=0o600)
        self._env_file.write_text("".join(f"{key}='{value}'\n" for key, value in self.values.items()))

    def run(self, *arguments: str, limit_s: float = 120, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """One compose command; raises Failed when it fails, unless `check` is off, or when it takes too long."""
        command = [*self._command, "--env-file", str(self._env_file), *arguments]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=limit_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failed(f"compose {shlex.join(arguments[:3])} took more than {limit_s:.0f} s") from None
            raise
        if check and process.returncode:
            raise Failed(f"compose {shlex.join(arguments[:3])} ended with {process.returncode}:\n{(out + err)[-3000:]}")
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def inside(self, service: str, *command: str, limit_s: float = 60) -> "subprocess.CompletedProcess[str]":
        """A command in a running container; its status is for the caller to judge."""
        return self.run("exec", "-T", service, *command, limit_s=limit_s, check=False)

    def sql(self, query: str) -> str:
        """The answer of PostgreSQL, columns separated by `|`; raises Failed."""
        asked = self.inside("postgres", "psql", "-U", "audit", "-d", "audit", "-v", "ON_ERROR_STOP=1", "-Atc", query)
        if asked.returncode:
            raise Failed(f"psql: {asked.stderr[-500:]}")
        return asked.stdout.strip()

    def number(self, query: str) -> int:
        """The same, of a query for one number."""
        return int(self.sql(query) or 0)

    def healthy(self) -> bool:
        """What the health check of the worker's container asks."""
        return self.inside("worker", "caption-audit", "health").returncode == 0

    def down(self) -> None:
        """Remove containers, networks and volumes of this run, whatever became of it; images stay."""
        self.run("down", "--volumes", "--timeout", "15", limit_s=180, check=False)


def wait_until(condition: Callable[[], T], *, limit_s: float, what: str, every_s: float = 1.0) -> T:
    """Ask until the answer is true, and return it; raises Failed."""
    deadline = time.monotonic() + limit_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {limit_s:.0f} s")
        time.sleep(every_s)
    return answer


def image_size(names: Sequence[str] = ("docker", "podman")) -> int | None:
    """Bytes of the image that was built, by whichever engine's own command is here."""
    for name in names:
        try:
            asked = subprocess.run(
                [name, "image", "inspect", "--format", "{{.Size}}", f"caption-audit:{IMAGE_TAG}"],
                capture_output=True,
                text=True,
                timeout=30,
                check=True,
            )
            return int(asked.stdout)
        except (OSError, subprocess.SubprocessError, ValueError):
            continue
    return None


def _values(pictures: Path) -> Mapping[str, str]:
    """The .env of this run; its passwords hold what breaks URLs and configuration files that are pieced together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        "POSTGRES_PASSWORD": f"{secrets.token_hex(12)}@/:#%20?x",
        "REDIS_PASSWORD": f"{secrets.token_hex(12)}@/:#%20 x",
        "AUDIT_FLOWER_PASSWORD": f"{secrets.token_hex(12)}@/#%",
        "AUDIT_FLOWER_USER": "audit",
        "AUDIT_MODEL": "demo",
        "AUDIT_IMAGE_TAG": IMAGE_TAG,
        "FLOWER_PORT": str(port),
        "PICTURES": str(pictures),
    }
