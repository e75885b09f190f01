"""One request and its answer, as bytes: as much of HTTP as metrics and health pages need, and nothing more."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from telemetry.logs import logger

log = logger(__name__)
MOST_REQUEST_BYTES = 8192
"""Of the request line and its headers; Prometheus and probes send a few hundred."""
END_OF_HEAD = b"\r\n\r\n"
TEXT = "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"
"""What every Prometheus reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """An answer's status, type and body."""

    status: int = HTTPStatus.OK
    content_type: str = TEXT
    body: bytes


Routes = Mapping[str, Callable[[], Page]]
"""By path, what makes its page. It is called while forks wait: it reads memory, and asks nobody."""


def is_whole(received: bytes) -> bool:
    """Whether enough of the request is there to answer it; a request's body is not waited for."""
    return END_OF_HEAD in received or len(received) >= MOST_REQUEST_BYTES


def response(received: bytes, routes: Routes) -> bytes:
    """What to send, and to close the connection after."""
    head, ended, _ = received.partition(END_OF_HEAD)
    if not ended:
        return _sent(_refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"over {MOST_REQUEST_BYTES} bytes"))
    try:
        method, target, version = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
    except ValueError:
        method = target = version = ""
    if not version.startswith("HTTP/1.") or not target.startswith("/"):
        return _sent(_refusal(HTTPStatus.BAD_REQUEST, "this is no request of HTTP/1"))
    if method not in ("GET", "HEAD"):
        return _sent(_refusal(HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD alone"), ("Allow: GET, HEAD",))
    page = _page(target.partition("?")[0], routes)
    return _sent(page, with_body=method == "GET")


def _page(path: str, routes: Routes) -> Page:
    make = routes.get(path)
    if make is None:
        return _refusal(HTTPStatus.NOT_FOUND, f"there is {' '.join(sorted(routes))}")
    try:
        return make()
    except Exception:
        log.exception("page failed", path=path)
        return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "see the worker's log")


def _refusal(status: HTTPStatus, why: str) -> Page:
    return Page(status=status, body=f"{status.phrase}: {why}\n".encode())


def _sent(page: Page, more: tuple[str, ...] = (), *, with_body: bool = True) -> bytes:
    lines = (
        f"HTTP/1.1 {page.status} {HTTPStatus(page.status).phrase}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(page.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *more,
    )
    return "\r\n".join(lines).encode() + END_OF_HEAD + (page.body if with_body else b"")
