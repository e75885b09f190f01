"""This end of worker/engines/hub_client.py: starts modelscope's client, gives it orders, reads its news, ends it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from audit.errors import AuditError, Permanent, Unavailable, UsageError
from audit.urls import redact
from worker.engines.hub_listing import Listing, parse_listing

Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes of it that are there and those that it has; often, from the calling thread."""
NOT_FOR_THE_CHILD = ("AUDIT_", "DATABASE_URL", "REDIS_URL", "CELERY_")
INTRA_CLOUD = "MODELSCOPE_DOWNLOAD_INTRA_CLOUD"
MAX_LINE = 8_000_000
MAX_ENDPOINT = 300
SILENT_S = 600.0
"""Longest without a listing or a byte: above modelscope's own timeouts and retries, and the hashing of a large file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a hub has of a model at a revision."""

    hub_id: str
    asked: str
    endpoint: str
    listing: Listing


class HubProcess:
    """A conversation with one hub about one model. Errors are AuditErrors in one line."""

    def __init__(self, process: "subprocess.Popen[bytes]", *, errors: Path) -> None:
        self._process = process
        self._errors = errors
        self._hub_id = ""
        self._revision = ""
        self._where = "the hub"

    def ask(self, hub_id: str, *, revision: str) -> Offer:
        """What the hub lists; raises UsageError for an unknown id or revision, Unavailable when it does not answer."""
        self._hub_id, self._revision = hub_id, revision
        self._order({"list": hub_id, "revision": revision})
        news = self._news("listing")
        endpoint = str(news["endpoint"])[:MAX_ENDPOINT]
        self._where = redact(endpoint)
        return Offer(
            hub_id=hub_id, asked=revision, endpoint=endpoint, listing=parse_listing(news["files"], hub_id=hub_id)
        )

    def take(self, names: list[str], *, into: Path, cache: Path, progress: Progress) -> None:
        """Download files of the model that was asked about; what is there as a whole, or in part, is not asked again.

        Raises Unavailable (it goes on where it stood), Permanent for bytes that are not those listed or a full disk.
        """
        self._order({"take": names, "into": str(into), "cache": str(cache)})
        self._news("taken", progress=progress)

    def _order(self, order: Mapping[str, object]) -> None:
        with suppress(BrokenPipeError):  # it has died: reading its news says of what
            self._stdin.write(json.dumps(order).encode() + b"\n")
            self._stdin.flush()

    def _news(self, wanted: str, *, progress: Progress | None = None) -> dict[str, Any]:
        while True:
            line = self._stdout.readline(MAX_LINE)
            if not line:
                raise self._died()
            news: dict[str, Any] = json.loads(line)
            if news["event"] == "failed":
                raise self._failure(str(news["kind"]), str(news["detail"]))
            if news["event"] == wanted:
                return news
            if progress is not None:
                progress(str(news["file"]), int(news["done"]), int(news["size"]))

    def _failure(self, kind: str, detail: str) -> AuditError:
        model, again = self._hub_id, "the same command goes on where it stood"
        cure = "check the network, HTTPS_PROXY and MODELSCOPE_ENDPOINT"
        failures = {
            "unknown": UsageError("unknown_model", f"{model}: the hub has no such model, or not that file ({detail})"),
            "unknown_revision": UsageError(
                "unknown_revision", f"{model} has no revision {self._revision!r}: name a branch, a tag or a commit"
            ),
            "denied": UsageError("hub_denied", f"{model}: {detail}; for a closed model set MODELSCOPE_API_TOKEN"),
            "corrupt": Permanent(
                "model_checksum", f"{model}: not the bytes that the hub lists, several times ({detail}); {again}"
            ),
            "disk_full": Permanent("disk_full", f"{model}: {detail}; make room, then {again}"),
            "not_written": Permanent("not_written", f"{model}: {detail}"),
            "nonsense": Permanent(
                "no_hub", f"{self._where} answers, but not as a hub does ({detail}): check MODELSCOPE_ENDPOINT"
            ),
            "away": Unavailable("hub_unavailable", f"{self._where} does not answer ({detail}): {cure}; {again}"),
        }
        return failures.get(kind) or Permanent("fetch_failed", f"{model}: {detail}")

    def _died(self) -> AuditError:
        status = self._process.wait()
        with suppress(OSError):
            lines = self._errors.read_text(errors="replace").strip().splitlines()
            if lines:
                return Permanent("fetch_failed", f"modelscope's client ended with status {status}: {lines[-1][:300]}")
        return Permanent("fetch_failed", f"modelscope's client ended with status {status}")

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe below
        return self._process.stdin

    @property
    def _stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None  # noqa: S101 - likewise
        return self._process.stdout


@contextmanager
def hub_process(folder: Path, *, silent_s: float = SILENT_S) -> Iterator[HubProcess]:
    """Run modelscope's client for the length of a block; all that it writes besides the files is in `folder`.

    A hub that brings nothing new for `silent_s` is Unavailable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    errors = folder / "errors.log"
    with errors.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.engines.hub_client", str(silent_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(folder),
            start_new_session=True,  # Ctrl-C is for us to answer
        )
    try:
        yield HubProcess(process, errors=errors)
    finally:
        # What it has on disk is all that matters; it holds no state worth a farewell.
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        shutil.rmtree(folder, ignore_errors=True)


def _environment(home: Path) -> dict[str, str]:
    """Ours, with its proxy, certificates and MODELSCOPE_ settings, but no secrets of ours and no home of the user's.

    A token counts only when MODELSCOPE_API_TOKEN names it: a stored login would be unpickled, and sent to a mirror.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_FOR_THE_CHILD)}
    root = str(Path(__file__).resolve().parents[2])
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, [root, kept.get("PYTHONPATH")])),
        "HOME": str(home),
        "MODELSCOPE_HOME": str(home),
        "MODELSCOPE_CACHE": str(home / "cache"),
        # Else it asks addresses that the hub names, to find out whether this is a machine of Alibaba's cloud.
        INTRA_CLOUD: kept.get(INTRA_CLOUD, "false"),
        "MODELSCOPE_LOG_LEVEL": "40",
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": "ignore",
    }
