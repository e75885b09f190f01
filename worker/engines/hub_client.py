"""The child process in which modelscope's own client talks to a hub: `python -m worker.engines.hub_client SILENT_S`.

A process of its own, because that client decides by the environment when it is imported (mirror, proxy, timeouts, cache
and login folders) and because a download can then be ended at any moment. Orders come on standard input, news leave on
standard output, a JSON object a line; worker/engines/hub_process.py is the other end, and when it is gone, so is this.

    {"list": ID, "revision": R}                       -> {"event": "listing", "endpoint": URL, "files": [...]}
    {"take": [NAME, ...], "into": DIR, "cache": DIR}  -> {"event": "bytes", ...} ..., {"event": "taken"}
                                                      or {"event": "failed", "kind": KIND, "detail": TEXT}

Only snapshot_download and the listing of modelscope's hub client are used: they read and write files. Nothing here
loads a model.
"""

import errno
import json
import os
import re
import sys
import threading
import time
from typing import IO, Any

NEWS_EVERY_S = 0.2
MAX_ENTRIES = 5_000
MAX_PATH = 500


class Client:
    """One conversation: an endpoint that has the model, then files from it."""

    def __init__(self, news: IO[str]) -> None:
        self._news = news
        self._lock = threading.Lock()
        self._hub_id = ""
        self._revision = "master"
        self._endpoint: str | None = None
        self._told_at: float | None = None  # None while there is no order

    def obey(self, order: dict[str, Any]) -> None:
        """Carry out one order and tell how it went."""
        self._told_at = time.monotonic()
        try:
            if "list" in order:
                self._list(order["list"], order["revision"])
            else:
                self._take(order["take"], order["into"], order["cache"])
        except Exception as error:  # noqa: BLE001 - the other end decides what it means
            kind, detail = _kind(error)
            self.tell(event="failed", kind=kind, detail=detail[:500])
        self._told_at = None

    def give_up_when_silent(self, silent_s: float) -> None:
        """End this process when an order brings nothing new for so long; for a thread of its own, never returns.

        modelscope bounds each request, but not how many a hub can make it ask: a listing may go on for ever.
        """
        while True:
            time.sleep(min(silent_s / 4, 5.0))
            told_at = self._told_at
            if told_at is not None and time.monotonic() - told_at > silent_s:
                self.tell(event="failed", kind="away", detail=f"nothing new came for {silent_s:.0f} s")
                os._exit(1)

    def tell(self, **told: object) -> None:
        """One line to the other end; downloads run in threads."""
        with self._lock:
            self._told_at = time.monotonic()
            self._news.write(json.dumps(told) + "\n")
            self._news.flush()

    def _list(self, hub_id: str, revision: str) -> None:
        from modelscope_hub import HubApi
        from modelscope_hub.errors import NotExistError

        api = HubApi()
        # The configured mirror; without one, modelscope asks its two sites which has the model.
        endpoint = api.resolve_endpoint_for_read(hub_id)
        api = HubApi(endpoint=endpoint)
        try:
            # The public list_repo_files() leaves out the commits.
            entries = api.legacy.list_repo_files(hub_id, "model", revision)
        except NotExistError:
            api.legacy.get_repo_info(hub_id, "model")
            raise UnknownRevisionError(revision) from None
        self._hub_id, self._revision, self._endpoint = hub_id, revision, endpoint
        files = [
            {
                "path": entry.get("Path"),
                "type": entry.get("Type"),
                "size": entry.get("Size"),
                "sha256": str(entry.get("Sha256") or "").lower() or None,
                "commit": entry.get("Revision"),
                "committed_at": entry.get("CommittedDate"),
            }
            for entry in entries[:MAX_ENTRIES]
            if len(str(entry.get("Path"))) <= MAX_PATH
        ]
        self.tell(event="listing", endpoint=endpoint, files=files)

    def _take(self, names: list[str], into: str, cache: str) -> None:
        from modelscope.hub.snapshot_download import snapshot_download

        snapshot_download(
            self._hub_id,
            revision=self._revision,
            endpoint=self._endpoint,
            local_dir=into,
            cache_dir=cache,
            allow_patterns=names,
            max_workers=2,
            progress_callbacks=[_progress(self)],
        )
        self.tell(event="taken")


class UnknownRevisionError(Exception):
    """The model is there, but not at this revision."""


def _progress(client: Client) -> type[Any]:
    """The class that modelscope makes one of for every file."""
    from modelscope_hub import ProgressCallback

    class Progress(ProgressCallback):  # it ships no types
        def __init__(self, filename: str, file_size: int) -> None:
            super().__init__(filename, file_size)
            self._done = 0
            self._told_at = 0.0

        def update(self, size: int) -> None:
            self._done += size
            if time.monotonic() - self._told_at >= NEWS_EVERY_S:
                self.end()

        def end(self) -> None:
            self._told_at = time.monotonic()
            client.tell(event="bytes", file=self.filename, done=self._done, size=self.file_size)

    return Progress


def _kind(error: BaseException) -> tuple[str, str]:
    """What sort of failure it was, and its first line; of several files' failures the one that matters most."""
    from modelscope_hub import errors

    if isinstance(error, errors.FileDownloadError):
        kinds = [(*_kind(one), name) for name, one in error.failed_files.items()]
        order = ("disk_full", "not_written", "corrupt", "denied", "unknown", "other", "away")
        kind, detail, name = min(kinds, key=lambda one: order.index(one[0]) if one[0] in order else 0)
        return kind, f"{name}: {detail}"
    first = (getattr(error, "message", "") or str(error) or type(error).__name__).splitlines()[0]
    reason = re.search(r"\[(?:Errno -?\d+|SSL[^\]]*)\] ([^'\"()\[\]]+)", first)
    if reason:  # all else of urllib3's text is the names of its classes
        first = ("the proxy: " if "ProxyError" in first else "") + reason[1].strip()
    if not first.isascii():  # some of its messages are in Chinese alone
        first = type(error).__name__
    kinds_by_type: list[tuple[Any, str]] = [
        (UnknownRevisionError, "unknown_revision"),
        (errors.NotExistError, "unknown"),
        ((errors.AuthenticationError, errors.PermissionDeniedError), "denied"),
        (errors.FileIntegrityError, "corrupt"),
        ((errors.NetworkError, errors.APIError), "away"),
    ]
    for types, kind in kinds_by_type:
        if isinstance(error, types):
            return kind, first
    if type(error).__name__ == "JSONDecodeError":  # that of requests is one of several
        return "away", "what answers sends no JSON: a page to sign in at?"
    if isinstance(error, AttributeError | TypeError | KeyError):
        return "nonsense", f"{type(error).__name__}: {first}"  # its own code stumbled over what was answered
    if isinstance(error, OSError) and error.errno is not None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return "disk_full" if full else "not_written", os.strerror(error.errno)
    from_requests = type(error).__module__.startswith(("requests", "urllib3"))
    return "away" if from_requests else "other", f"{type(error).__name__}: {first}"


def main() -> None:
    """Obey line after line until standard input ends."""
    # Whatever modelscope prints must not stand between our lines.
    news = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    client = Client(news)
    orders: list[dict[str, Any]] = []
    come = threading.Condition()

    def listen() -> None:
        for line in sys.stdin:
            with come:
                orders.append(json.loads(line))
                come.notify()
        # The other end has left, perhaps by SIGKILL: what is on disk is where the next download goes on.
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    threading.Thread(target=client.give_up_when_silent, args=(float(sys.argv[1]),), daemon=True).start()
    while True:
        with come:
            come.wait_for(lambda: bool(orders))
            order = orders.pop(0)
        client.obey(order)


if __name__ == "__main__":
    main()
