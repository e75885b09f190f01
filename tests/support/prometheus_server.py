"""A Prometheus of a test's own on 127.0.0.1, and ways to ask it."""

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support.ports import free_port
from tests.support.waiting import wait_until

Row = dict[str, Any]
"""One series of an answer: `metric` with its labels, and `value` or `values`."""


def find_prometheus() -> str | None:
    """The installed server; Debian's package is called `prometheus`."""
    return shutil.which("prometheus")


class Prometheus:
    """Scrapes `targets` (job -> host:port) every `every_s` seconds, and evaluates `rules` as often."""

    def __init__(
        self,
        executable: str,
        folder: Path,
        *,
        targets: Mapping[str, Sequence[str]],
        rules: Sequence[Path] = (),
        every_s: int = 1,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        every = f"{every_s}s"
        config = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [*asked]}]} for job, asked in targets.items()
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.port = free_port()
        self._log = folder / "prometheus.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    executable,
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        wait_until(self._ready, timeout_s=60, what=f"Prometheus to be ready: {self._log.read_text()[-2000:]}")

    def query(self, expression: str) -> list[Row]:
        """What holds now; AssertionError with Prometheus's own words for an expression that it does not take."""
        return self._ask("query", query=expression)

    def query_range(self, expression: str, *, start: float, end: float, step_s: float) -> list[Row]:
        """The same over a time, as `values` of (time, text)."""
        return self._ask("query_range", query=expression, start=str(start), end=str(end), step=str(step_s))

    def series(self, matcher: str) -> list[dict[str, str]]:
        """Labels of every series that matches."""
        found: list[dict[str, str]] = self._get("series", {"match[]": matcher})["data"]
        return found

    @staticmethod
    def page(target: str) -> str:
        """What it reads at host:port, as text."""
        with _opener().open(f"http://{target}/metrics", timeout=60) as answer:
            text: bytes = answer.read()
        return text.decode()

    def rules(self) -> list[dict[str, Any]]:
        """Every rule that is asked more than once a minute, with its health and last error, once that is known."""
        wait_until(
            lambda: all(rule["health"] != "unknown" for rule in self._rules()),
            timeout_s=120,
            what="rules to be evaluated",
        )
        return self._rules()

    def _rules(self) -> list[dict[str, Any]]:
        groups = self._get("rules", {})["data"]["groups"]
        return [rule for group in groups if group["interval"] < 60 for rule in group["rules"]]

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=20)

    def _ready(self) -> bool:
        assert self.process.poll() is None, f"Prometheus has ended: {self._log.read_text()[-2000:]}"
        try:
            with _opener().open(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _ask(self, kind: str, **asked: str) -> list[Row]:
        told = self._get(kind, asked)
        assert told["status"] == "success", f"{told.get('error')}: {asked['query']}"
        data = told["data"]
        rows: list[Row] = data["result"] if data["resultType"] in ("vector", "matrix") else []
        return rows

    def _get(self, kind: str, asked: Mapping[str, str]) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/api/v1/{kind}?{urllib.parse.urlencode(asked)}"
        try:
            with _opener().open(url, timeout=60) as answer:
                told: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:  # 400 and 422 carry the reason
            told = json.load(error)
        return told


def _opener() -> urllib.request.OpenerDirector:
    """Without a proxy that the environment names."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
