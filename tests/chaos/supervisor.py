"""Workers as a service manager runs them: one that ends is cleared away with its whole group, and started again."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from audit.settings import Settings
from tests.support.running import Worker

RESTART_S = 0.5
STOP_GRACE_S = 30.0
"""TERM, and KILL at the end of the grace, as service managers do."""


@dataclass(slots=True, kw_only=True)
class Post:
    """A place for a worker, and who had it."""

    number: int
    worker: Worker
    ended: list[int] = field(default_factory=list)  # exit statuses
    stop_by: float | None = None  # it was asked to stop, and is killed then
    keep_group: bool = False  # at its end, children are left to themselves
    again_at: float | None = None
    groups: list[int] = field(default_factory=list)  # of every worker that was here


class Supervisor:
    """A thread over some posts. `close` ends every process that was ever started here."""

    def __init__(self, settings: Settings, folder: Path, *, workers: int, environment: Mapping[str, str]) -> None:
        self._settings = settings
        self._folder = folder
        self._environment = environment
        self._stopped = threading.Event()
        self.lock = threading.Lock()
        self.posts = [self._open(number) for number in range(workers)]
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    @property
    def logs(self) -> list[Path]:
        """One for each post, of all its workers."""
        return [self._log(post.number) for post in self.posts]

    def deploy(self, post: Post) -> None:
        """Ask the worker to stop; it is started again when it has."""
        with self.lock:
            post.stop_by = time.monotonic() + STOP_GRACE_S
            with suppress(ProcessLookupError):
                post.worker.process.send_signal(signal.SIGTERM)

    def kill(self, post: Post, *, whole: bool, leave_children: bool = False) -> None:
        """SIGKILL for the main process, or for its whole group."""
        with self.lock:
            post.keep_group = leave_children
            with suppress(ProcessLookupError):
                (os.killpg if whole else os.kill)(post.worker.process.pid, signal.SIGKILL)

    def orphans(self) -> list[int]:
        """Processes of groups whose leader is gone."""
        living = {post.worker.process.pid for post in self.posts}
        groups = {group for post in self.posts for group in post.groups} - living
        return [pid for pid in psutil.pids() if _group_of(pid) in groups]

    def close(self) -> list[int]:
        """TERM, then KILL for every group; returns the exit statuses of the workers that stopped when told."""
        self._stopped.set()
        self._thread.join(timeout=30)
        with self.lock:
            for post in self.posts:
                with suppress(ProcessLookupError):
                    os.killpg(post.worker.process.pid, signal.SIGCONT)
                    post.worker.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + STOP_GRACE_S
            while any(post.worker.process.poll() is None for post in self.posts) and time.monotonic() < deadline:
                time.sleep(0.1)
            for group in (group for post in self.posts for group in post.groups):
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)
            return [post.worker.process.wait(timeout=30) for post in self.posts]

    def _open(self, number: int) -> Post:
        worker = Worker(self._settings, log=self._log(number), environment=self._environment)
        return Post(number=number, worker=worker, groups=[worker.process.pid])

    def _log(self, number: int) -> Path:
        return self._folder / f"worker-{number}.log"

    def _run(self) -> None:
        while not self._stopped.wait(0.1):
            with self.lock:
                for post in self.posts:
                    self._look_at(post)

    def _look_at(self, post: Post) -> None:
        process, now = post.worker.process, time.monotonic()
        if process.poll() is None:
            if post.stop_by is not None and now > post.stop_by:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            return
        if post.again_at is None:
            post.ended.append(int(process.returncode))
            if not post.keep_group:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
            post.stop_by, post.keep_group, post.again_at = None, False, now + RESTART_S
        elif now > post.again_at:
            post.worker = Worker(self._settings, log=self._log(post.number), environment=self._environment)
            post.groups.append(post.worker.process.pid)
            post.again_at = None


def _group_of(pid: int) -> int | None:
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return None
        return os.getpgid(pid)
    except (psutil.Error, ProcessLookupError):
        return None
