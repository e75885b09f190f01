"""The command health: does the worker of this host, or of this container, prove that it can judge?

Of a worker it looks at what the main process wrote of itself in the last seconds, and whether the processes named there
live. So it answers in a fraction of a second, and an outage of Redis or of the ledger, which a restart of the worker
cannot end, does not make it unhealthy.
"""

import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.arguments import JsonOption, examples

if TYPE_CHECKING:
    from audit.settings import Settings

STALE_S = 60.0
"""A main process writes once a second; while a ledger or a Redis hangs it writes within half of this."""
FLOWER_LIMIT_S = 4.0
MOST_BYTES = 100_000
"""What a worker writes of itself is some hundred bytes."""
FULL_BYTES = 64 * 1024
"""Room for one more chunk of outcomes; below it SQLite cannot commit."""
CLOCK_S = 2.0
"""Start times of processes are known to a hundredth of a second, but by a boot time that is rounded."""


class Probe(StrEnum):
    """What is asked."""

    LIVE = "live"
    READY = "ready"
    FLOWER = "flower"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeen:
    """A worker whose main process lives. `ready` counts slots whose process judged the canary pair, and lives."""

    pid: int
    model: str
    slots: int
    ready: int
    silent_s: float  # since it last wrote
    stopped: bool  # SIGSTOP, or a debugger
    waits: str | None  # for what: a ledger or a Redis that is away; it makes nobody unhealthy
    finished: int = 0  # chunks, and pairs judged alone, since it started
    busy: int = 0  # slots with a chunk in hand

    def wrong(self, probe: Probe, stale_s: float) -> str | None:
        """Why the answer is no; None when it is yes. One ready slot is enough: others may be reloading just now."""
        if self.stopped:
            return f"worker {self.pid} is stopped"
        if self.silent_s > stale_s:
            return f"worker {self.pid} hangs: it has not told of itself for {self.silent_s:.0f} s"
        if probe is Probe.READY and not self.ready:
            return f"worker {self.pid} cannot judge: none of its {self.slots} slots has proved its model"
        return None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "caption-audit health",
            "caption-audit health --probe live",
            "caption-audit health --probe flower",
            "caption-audit health --json | jq .workers",
        )
    )(health)


def health(
    probe: Annotated[
        Probe,
        typer.Option(
            help="`live`: the main process runs and is heard of; `ready`: a slot has proved its model; `flower`: Flower"
            " answers here, and only with its password."
        ),
    ] = Probe.READY,
    stale_after: Annotated[
        float, typer.Option(min=5, max=3600, metavar="SECONDS", help="Silence after which a main process hangs.")
    ] = STALE_S,
    as_json: JsonOption = False,
) -> int:
    """Say whether the worker that runs here, for this AUDIT_HOME, lives and can judge; for health checks.

    Exit status 0: every worker here does; 1: one does not, or there is none. A slot is ready once its process judged
    the canary pair, and as long as that process lives; a worker is ready with one such slot, unless a disk of its
    AUDIT_HOME or of its SQLite ledger is full.
    """
    from audit.settings import read_settings

    settings = read_settings()
    seen: list[WorkerSeen] = []
    if probe is Probe.FLOWER:
        wrong = [reason] if (reason := flower_wrong(settings)) else []
    else:
        seen = list(workers_seen(settings.home, now=time.time()))
        wrong = [reason for worker in seen if (reason := worker.wrong(probe, stale_after))]
        wrong = wrong if seen else ["no worker runs here"]
        if probe is Probe.READY:
            wrong += full_disks(settings)
    if as_json:
        from ops.show import print_json

        print_json(
            {"probe": probe.value, "ok": not wrong, "wrong": wrong, "workers": [asdict(worker) for worker in seen]}
        )
    else:
        print("; ".join(wrong or [_told(worker) for worker in seen] or ["Flower answers, and only with its password"]))
    return 1 if wrong else 0


def workers_seen(home: Path, *, now: float) -> Iterator[WorkerSeen]:
    """Every worker of this AUDIT_HOME whose main process lives; `now` is in seconds since the epoch.

    Files that a killed worker left behind are passed over, also when another process has its number by now.
    """
    import psutil

    for path in sorted((home / "run").glob("worker-*.json")):
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
                continue  # reading a pipe would wait for ever
            wrote_at, told = found.st_mtime, json.loads(path.read_text())
            process = psutil.Process(int(told["pid"]))
            if process.status() == psutil.STATUS_ZOMBIE or process.create_time() > wrote_at + CLOCK_S:
                continue
            yield WorkerSeen(
                pid=process.pid,
                model=str(told["model"]),
                slots=int(told["slots"]),
                ready=sum(_works(int(pid), process.pid) for pid in told["ready"].values()),
                silent_s=round(max(0.0, now - wrote_at), 1),
                stopped=process.status() == psutil.STATUS_STOPPED,
                waits=told.get("waits"),
                finished=int(told.get("finished", 0)),
                busy=int(told.get("busy", 0)),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, psutil.Error):
            continue  # gone between two looks, or no file of ours


def full_disks(settings: "Settings") -> list[str]:
    """Disks of this host without room: nothing can be claimed, and a restart would not help. One sentence each."""
    home, url = settings.home, settings.ledger_url
    folders = [home, *([Path(url.removeprefix("sqlite:///")).parent] if url.startswith("sqlite:///") else [])]
    wrong = {}
    for folder in folders:
        try:
            found = os.statvfs(folder)
        except OSError:
            continue  # not there yet
        left = found.f_bavail * found.f_frsize
        if found.f_blocks and left < FULL_BYTES:
            wrong[found.f_fsid] = f"the disk of {folder} is full: {left} bytes are left"
    return list(wrong.values())


def flower_wrong(settings: "Settings") -> str | None:
    """Why the Flower of these settings is unhealthy; None when it shows its workers, and shows nobody else anything."""
    from base64 import b64encode

    from ops.flower_password import password, password_file
    from ops.flower_server import address

    url, file = f"{address(settings)}api/workers", password_file(settings)
    if file is not None and not file.exists():
        return f"Flower has no password: there is neither AUDIT_FLOWER_PASSWORD nor {file}"
    credentials = b64encode(f"{settings.flower_user}:{password(settings)}".encode()).decode()
    for login, expected in (({}, 401), ({"Authorization": f"Basic {credentials}"}, 200)):
        status = _status(url, login)
        if not status:
            return f"Flower does not answer at {url}"
        if status != expected:
            return f"Flower answers {status} at {url} {'with' if login else 'without'} its password, not {expected}"
    return None


def _status(url: str, headers: dict[str, str]) -> int:
    """What it answers, in at most a few seconds; 0 when nobody does."""
    import urllib.error
    import urllib.request

    # A proxy that the environment names must not see the password, and does not know this host's 127.0.0.1.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=FLOWER_LIMIT_S) as answer:  # noqa: S310 - ours
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _works(pid: int, parent: int) -> bool:
    """Whether a pool process lives; a number that another process has by now does not count."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.ppid() == parent and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def _told(worker: WorkerSeen) -> str:
    waits = f"; it waits: {worker.waits}" if worker.waits else ""
    return f"worker {worker.pid}: {worker.ready} of {worker.slots} slots ready, model {worker.model}{waits}"
