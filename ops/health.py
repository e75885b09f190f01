"""The command health: does the worker of this host, or of this container, prove that it can judge?

Of a worker it looks at what the main process wrote of itself in the last seconds, and whether the processes named there
live. So it answers in a fraction of a second, and an outage of Redis or of the ledger, which a restart of the worker
cannot end, makes it neither dead nor unready. worker/health.py decides, here and for the pages over HTTP.
"""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from ops.arguments import JsonOption, examples
from worker.health import State
from worker.health import full_disks as full
from worker.seen import STALE_S, Probe, WorkerSeen, told_of, workers_seen

if TYPE_CHECKING:
    from audit.settings import Settings

FLOWER_LIMIT_S = 4.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog=examples(
            "caption-audit health",
            "caption-audit health --probe live",
            "caption-audit health --probe all",
            "caption-audit health --probe flower",
            "caption-audit health --json | jq '.workers[].depths'",
        )
    )(health)


def health(
    probe: Annotated[
        Probe,
        typer.Option(
            help="`live`: the main process runs and is heard of; `ready`: a slot has proved its model, and still"
            " answers known questions rightly; `all`: Redis, the ledger, disks and memory are well, too; `flower`:"
            " Flower answers here, and only with its password."
        ),
    ] = Probe.READY,
    stale_after: Annotated[
        float, typer.Option(min=5, max=3600, metavar="SECONDS", help="Silence after which a main process hangs.")
    ] = STALE_S,
    as_json: JsonOption = False,
) -> int:
    """Say whether the worker that runs here, for this AUDIT_HOME, lives and can judge; for health checks.

    Exit status 0: every worker here does; 1: one does not, or there is none. A slot is ready once its process judged
    the canary pair, and as long as that process lives and answers known questions rightly; a worker is ready with one
    such slot (the others are named as degraded), unless a disk of its AUDIT_HOME or of its SQLite ledger is full.
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
        if probe is not Probe.LIVE:
            wrong += full_disks(settings)
    if as_json:
        from ops.show import print_json

        workers = [told_of(worker, stale_after) for worker in seen]
        print_json({"probe": probe.value, "ok": not wrong, "wrong": wrong, "workers": workers})
    else:
        print("; ".join(wrong or [_told(worker) for worker in seen] or ["Flower answers, and only with its password"]))
    return 1 if wrong else 0


def full_disks(settings: "Settings") -> list[str]:
    """Disks of this host without room: nothing can be claimed, and a restart would not help. One sentence each."""
    from worker.resources import disks, folders_of

    return full({"disks": disks(folders_of(settings))})


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


def _told(worker: WorkerSeen) -> str:
    waits = f"; it waits: {worker.waits}" if worker.waits else ""
    health = worker.health()
    short = [] if health.resources.state is not State.DEGRADED else list(health.resources.reasons)
    if health.capability.state is State.DEGRADED:
        short += health.capability.reasons
    degraded = f"; degraded: {', '.join(short)}" if short else ""
    return f"worker {worker.pid}: {worker.ready} of {worker.slots} slots ready, model {worker.model}{waits}{degraded}"
