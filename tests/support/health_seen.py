"""A real worker's health, asked in every way at once: from its file, by the command, and over HTTP."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from audit.settings import Settings
from tests.support.running import ROOT, variables
from tests.support.waiting import wait_until
from worker.seen import workers_seen

WELL = {"process": "ok", "resources": "ok", "capability": "ok"}


class HealthSeen:
    """Of the one worker of these settings, which serve pages."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def depths(self) -> dict[str, str]:
        """State by depth; empty while no worker is heard of."""
        for worker in workers_seen(self._settings.home, now=time.time()):
            return {name: str(depth["state"]) for name, depth in worker.health().depths().items()}
        return {}

    def wait(self, *, timeout_s: float = 90, log: Path | None = None, **depths: str) -> None:
        """Until these depths are so, and the others are well."""
        wanted = WELL | depths
        try:
            wait_until(lambda: self.depths() == wanted, timeout_s=timeout_s, what=str(wanted))
        except AssertionError as error:
            tail = log.read_text()[-3000:] if log else ""
            raise AssertionError(f"{error}, but it is {self.details()}\n{tail}") from None

    def details(self) -> Any:
        """What /health says; the worker's pages must be served."""
        return json.loads(self._page("/health")[1])

    def http(self) -> dict[str, tuple[int, str]]:
        """Status and answer of the pages with one word, and the status of the details."""
        details, _ = self._page("/health")
        pages = {name: self._page(f"/health/{name}") for name in ("simple", "live", "ready")}
        return {"health": (details, ""), **{name: (status, text.strip()) for name, (status, text) in pages.items()}}

    def command(self) -> dict[str, int]:
        """Exit status of `caption-audit health` by probe."""
        return {probe: self.ask("--probe", probe).returncode for probe in ("live", "ready", "all")}

    def ask(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`caption-audit health` with these arguments."""
        return subprocess.run(
            [sys.executable, "-m", "ops.cli", "health", *arguments],
            cwd=ROOT,
            env={**variables(self._settings), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def _page(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self._settings.http_port}{path}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def answer() -> tuple[int, str] | None:
            try:
                with opener.open(url, timeout=30) as page:
                    return int(page.status), page.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            except OSError:
                return None  # it begins to listen a moment after it tells of itself

        found = wait_until(answer, timeout_s=60, what=f"an answer at {url}")
        assert found
        return found
