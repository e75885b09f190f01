"""A real Flower in a process of its own, and ways to ask it."""

import os
import re
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from celery import Celery

from tests.support.ports import free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


def basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


class FlowerSeen:
    """A Flower that listens at `port`; `authorization` is what requests carry unless told otherwise."""

    def __init__(self, port: int, *, user: str, password: str) -> None:
        self.port = port
        self.user, self.password = user, password
        self.authorization: str | None = basic(user, password)
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, *, method: str = "GET", body: str | None = None, **headers: str) -> tuple[int, str]:
        """Status and body; `Authorization=""` sends none."""
        answer = self.answer(path, method=method, body=body, **headers)
        return answer.status, answer.read().decode(errors="replace")

    def answer(self, path: str, *, method: str = "GET", body: str | None = None, **headers: str) -> HTTPResponse:
        sent = {"Authorization": self.authorization or "", **headers}
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body=body, headers={name: value for name, value in sent.items() if value})
        return connection.getresponse()

    def json(self, path: str) -> Any:
        import json

        status, text = self.ask(path)
        assert status == 200, f"{path}: {status} {text[:300]}"
        return json.loads(text)

    def listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False


@contextmanager
def flower_running(environ: Mapping[str, str], folder: Path) -> Iterator[FlowerSeen]:
    """`caption-audit flower` for the length of a block; its output goes to folder/flower.out."""
    port = free_port()
    home = Path(environ["AUDIT_HOME"])
    out = folder / "flower.out"
    with out.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ops.cli", "flower"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ, "AUDIT_FLOWER_PORT": str(port)},
            stdout=output,
            stderr=output,
        )

    def told() -> bool:
        assert process.poll() is None, out.read_text()
        return bool(re.search(rf"^Flower is at http://127\.0\.0\.1:{port}/", out.read_text(), re.MULTILINE))

    try:
        wait_until(told, timeout_s=60, what="Flower to listen")
        password = environ.get("AUDIT_FLOWER_PASSWORD") or (home / "flower-password").read_text().strip()
        seen = FlowerSeen(port, user=environ.get("AUDIT_FLOWER_USER", "audit"), password=password)
        wait_until(seen.listens, timeout_s=30, what="Flower to answer")
        yield seen
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        finally:
            process.kill()


def send_events(broker_url: str, *events: Mapping[str, Any], worker: str = "somebody@elsewhere") -> None:
    """Celery events, as a worker (or anybody who can write to Redis) sends them; `type` is the event's."""
    app = Celery("events", set_as_current=False, broker=broker_url)
    with app.connection_for_write() as connection, app.events.Dispatcher(connection, hostname=worker) as dispatcher:
        for event in events:
            fields = dict(event)
            dispatcher.send(fields.pop("type"), **fields)


def received(uuid: str, **fields: Any) -> dict[str, Any]:
    """The event of a task that a worker has received."""
    return {"type": "task-received", "uuid": uuid, "name": "caption_audit.judge", "args": "()", "retries": 0, **fields}
