"""Processes that `up` starts: each in a session of its own, none outliving it, and what an earlier one left behind."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audit.holder import start_ticks

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None)  # opened before the fork: a child may not load libraries


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One process, named so that a later `up` can tell it from another one with its number."""

    kind: str
    pid: int
    started: int

    def to_json(self) -> dict[str, Any]:
        """For the lock file."""
        return asdict(self)

    @property
    def lives(self) -> bool:
        """Whether this very process still runs."""
        return start_ticks(self.pid) == self.started


def start(
    command: Sequence[str],
    *,
    output: int,
    environ: Mapping[str, str] | None = None,
    keep: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start a process that Ctrl-C does not reach, and that is told to stop (TERM) when this process dies.

    `keep` are descriptors that it gets besides its output.
    """
    # A session of its own: the terminal's Ctrl-C would otherwise stop Redis under the worker's feet.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=None if environ is None else dict(environ),
        start_new_session=True,
        pass_fds=keep,
        preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - two system calls, nothing that takes a lock
    )


def python_command(module: str, *arguments: str) -> list[str]:
    """This interpreter on a module of ours; the current folder's own `ops` or `db` must not come first."""
    return [sys.executable, "-P", "-m", module, *arguments]


def python_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment, with this source tree first on the path: it may not be installed."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **extra}


def child_of(kind: str, process: "subprocess.Popen[bytes]") -> Child:
    """The started process as it is written down."""
    return Child(kind=kind, pid=process.pid, started=start_ticks(process.pid) or 0)


def stop(process: "subprocess.Popen[bytes]", *, grace_s: float) -> None:
    """TERM, then KILL for the whole session after `grace_s`; returns when it is gone."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace_s)
    kill(process.pid)
    process.wait()


def kill(session: int) -> None:
    """KILL whatever is left of a child's session; its leader has the session's number."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)


def is_alive(session: int) -> bool:
    """Whether any process of a child's session is left; one that nobody has waited for counts."""
    try:
        os.killpg(session, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def adopt_orphans() -> None:
    """From now on processes whose parent dies become this one's children, not those of the system's first process."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_orphans(*, but: int) -> None:
    """Wait for whatever has ended, but for this child: somebody else wants to hear how that one ended."""
    with suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == but:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)


def clear_leftovers(children: Sequence[Child], *, patience_s: float = 5.0) -> list[Child]:
    """Wait for the children of a killed `up` to leave, then kill them; returns those that had to be killed."""
    deadline = time.monotonic() + patience_s
    while any(child.lives for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    killed = [child for child in children if child.lives]
    for child in killed:
        kill(child.pid)
    return killed


def _die_with(parent: int) -> Callable[[], None]:
    def set_signal() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return set_signal
