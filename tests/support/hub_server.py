"""A hub on 127.0.0.1 that speaks the part of ModelScope's protocol that its client (modelscope-hub 0.5.1) uses.

    GET /api/v1/models/OWNER/NAME                                        metadata; 404 when there is no such model
    GET /api/v1/models/OWNER/NAME/repo/files?Revision=R&Recursive=True   {"Data": {"Files": [{Path, Size, Sha256, ..}]}}
    GET /api/v1/models/OWNER/NAME/repo?Revision=R&FilePath=F             the bytes; answers Range with 206

Faults are set on `Hub` while it runs: a connection cut in the middle, a flipped byte, errors, a stall.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

HEAD = "0123456789abcdef0123456789abcdef01234567"
"""The commit that every listed file was last changed by."""
PIECE = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, as the server saw it."""

    path: str
    file: str | None
    range: str | None
    agent: str
    token: str | None


@dataclass(slots=True, kw_only=True)
class Hub:
    """What is served, what goes wrong with it, and what was asked for.

    `models` maps ids to revisions to files. `cut_after`: a file's connection is closed after so many bytes, once;
    `stall_after`: its bytes stop coming, until `go_on` is set; `flip`: names of files that come with one wrong byte,
    and how often; `status`: file names (or "listing") that are answered with this HTTP status, for ever.
    """

    url: str = ""
    models: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    hashes_listed: bool = True
    cut_after: dict[str, int] = field(default_factory=dict)
    stall_after: dict[str, int] = field(default_factory=dict)
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    flip: dict[str, int] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    listed_besides: list[dict[str, Any]] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    def serve(self, hub_id: str, files: Mapping[str, bytes], *, revision: str = "master") -> None:
        """Offer a model under a revision."""
        self.models.setdefault(hub_id, {})[revision] = dict(files)

    def serve_directory(self, hub_id: str, directory: Path, *, revision: str = "master") -> None:
        """Offer a directory's files, but for its checksums."""
        names = [path.name for path in directory.iterdir() if path.is_file() and path.name != "SHA256SUMS"]
        self.serve(hub_id, {name: (directory / name).read_bytes() for name in names}, revision=revision)

    def downloads(self, file: str) -> list[Asked]:
        """The requests for a file's bytes, in order."""
        return [asked for asked in self.asked if asked.file == file]


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port, for the length of a block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer one request, and remember it."""
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        file = query.get("FilePath")
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ") or None
        self.hub.asked.append(
            Asked(
                path=parts.path,
                file=file,
                range=self.headers["Range"],
                agent=self.headers["User-Agent"] or "",
                token=token,
            )
        )
        words = parts.path.strip("/").split("/")
        revisions = self.hub.models.get("/".join(words[3:5])) if words[:3] == ["api", "v1", "models"] else None
        files = (revisions or {}).get(query.get("Revision", "master"))
        if revisions is None:
            self._refuse(404, "the model does not exist")
        elif words[5:] == []:
            self._json({"Name": words[4], "Path": words[3]})
        elif files is None:
            self._refuse(404, "the revision does not exist")
        elif words[5:] == ["repo", "files"]:
            self._listing(files)
        elif words[5:] == ["repo"] and file in files:
            self._send(file, files[file])
        else:
            self._refuse(404, "no such file")

    def _listing(self, files: Mapping[str, bytes]) -> None:
        if "listing" in self.hub.status:
            self._refuse(self.hub.status["listing"], "not now")
            return
        entries = [
            {
                "Name": name.rsplit("/", 1)[-1],
                "Path": name,
                "Type": "blob",
                "Size": len(content),
                "Sha256": hashlib.sha256(content).hexdigest() if self.hub.hashes_listed else "",
                "Revision": HEAD,
                "CommittedDate": 1_700_000_000,
                "IsLFS": len(content) > 1_000_000,
            }
            for name, content in sorted(files.items())
        ]
        folder = {"Name": "resources", "Path": "resources", "Type": "tree", "Size": 0}
        self._json({"Files": [folder, *entries, *self.hub.listed_besides]})

    def _send(self, name: str, content: bytes) -> None:
        if name in self.hub.status:
            self._refuse(self.hub.status[name], "not this file")
            return
        if self.hub.flip.get(name, 0) > 0:
            self.hub.flip[name] -= 1
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if self.headers["Range"] else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if self.headers["Range"]:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        for at in range(start, len(content), PIECE):
            if at >= self.hub.stall_after.get(name, len(content)):
                self.wfile.flush()
                self.hub.stalled.set()
                self.hub.go_on.wait(timeout=120)
                self.close_connection = True
                return
            if at >= self.hub.cut_after.get(name, len(content)):
                del self.hub.cut_after[name]
                self.wfile.flush()
                self.close_connection = True
                return
            self.wfile.write(content[at : at + PIECE])

    def _json(self, data: object) -> None:
        self._answer(200, {"Code": 200, "Success": True, "Message": "success", "Data": data})

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, {"Code": 10_010_205_001, "Success": False, "Message": message})

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Say nothing."""
