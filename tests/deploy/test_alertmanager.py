"""The example for Alertmanager, run for real: what reaches a mailbox and a webhook."""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.message_takers import mail_server, webhook
from tests.support.observability import FOLDER
from tests.support.ports import free_port
from tests.support.waiting import wait_until


def alert(name: str, severity: str, **labels: str) -> dict[str, Any]:
    told = {"summary": f"{name} happened", "description": "so it is", "runbook": "docs/runbook.md#x"}
    return {"labels": {"alertname": name, "severity": severity, "job": "caption-audit", **labels}, "annotations": told}


class Alertmanager:
    """The installed one, with the example's configuration but for addresses and patience."""

    def __init__(self, folder: Path, *, mail_port: int, webhook_port: int) -> None:
        executable = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
        if executable is None:
            pytest.skip("there is no Alertmanager: install it (apt: prometheus-alertmanager)")
        (folder / "token").write_text("the-secret-of-the-webhook")
        text = (FOLDER / "alertmanager.yml").read_text(encoding="utf-8")
        for ours, theirs in (
            ("smtp.example.com:587", f"127.0.0.1:{mail_port}"),
            ("smtp_require_tls: true", "smtp_require_tls: false"),
            ("https://alerts.example.com/", f"http://127.0.0.1:{webhook_port}/"),
            ("/run/alertmanager/webhook-token", str(folder / "token")),
            ("group_wait: 30s", "group_wait: 1s"),
            ("group_wait: 10s", "group_wait: 1s"),
        ):
            assert ours in text
            text = text.replace(ours, theirs)
        (folder / "alertmanager.yml").write_text(text)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = folder / "alertmanager.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    executable,
                    f"--config.file={folder / 'alertmanager.yml'}",
                    f"--storage.path={folder / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                    "--cluster.listen-address=",
                ],
                stdout=log,
                stderr=log,
            )
        wait_until(self._ready, timeout_s=60, what=f"Alertmanager: {self.log.read_text()[-2000:]}")

    def fire(self, *fired: dict[str, Any]) -> None:
        body = json.dumps([*fired]).encode()
        self._ask("/api/v2/alerts", body)

    def state(self, severity: str) -> str:
        """Of the one alert with that severity and an instance."""
        (found,) = [
            one
            for one in json.loads(self._ask("/api/v2/alerts"))
            if one["labels"]["severity"] == severity and "instance" in one["labels"]
        ]
        return str(found["status"]["state"])

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            return bool(self._ask("/-/ready"))
        except OSError:
            return False

    def _ask(self, path: str, body: bytes | None = None) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=body, headers=headers)  # noqa: S310 - ours
        with opener.open(request, timeout=20) as answer:
            read: bytes = answer.read()
        return read


@contextmanager
def running(folder: Path, *, mail_port: int, webhook_port: int) -> Iterator[Alertmanager]:
    made = Alertmanager(folder, mail_port=mail_port, webhook_port=webhook_port)
    try:
        yield made
    finally:
        made.process.terminate()
        made.process.wait(timeout=30)


def test_mail_and_webhook_are_told_once(tmp_path: Path) -> None:
    """A critical alert reaches both, with its bearer token and without its own warning; another warning is mailed."""
    with (
        mail_server() as (mail_port, mails),
        webhook() as (webhook_port, calls),
        running(tmp_path, mail_port=mail_port, webhook_port=webhook_port) as alertmanager,
    ):
        alertmanager.fire(
            alert("CaptionAuditDisk", "warning", instance="gpu-1", folder="home"),
            alert("CaptionAuditDisk", "critical", instance="gpu-1", folder="home"),
            alert("CaptionAuditErrors", "warning"),
        )
        wait_until(lambda: len(mails) >= 2 and calls, timeout_s=60, what=f"messages: {alertmanager.log.read_text()}")
        wait_until(
            lambda: alertmanager.state("warning") == "suppressed", timeout_s=60, what="the warning to be inhibited"
        )
        assert alertmanager.state("critical") == "active"
    subjects = sorted(line for mail in mails for line in mail.splitlines() if line.startswith("Subject:"))
    assert subjects == [
        "Subject: [FIRING] critical CaptionAuditDisk",
        "Subject: [FIRING] warning CaptionAuditErrors",
    ]
    assert all("docs/runbook.md#x" in mail for mail in mails)
    ((authorization, told),) = calls
    assert authorization == "Bearer the-secret-of-the-webhook"
    assert [(one["labels"]["alertname"], one["labels"]["severity"]) for one in told["alerts"]] == [
        ("CaptionAuditDisk", "critical")
    ]
