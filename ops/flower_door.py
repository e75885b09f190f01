"""The door in front of every page of Flower: who may come in, and what nobody may do.

Flower guards its pages and its API itself, but leaves /metrics, /healthcheck and its static files open, and answers a
password that is not ASCII with an error. So every request, whatever its path, passes here first.
"""

import hmac
import re
from base64 import b64decode, b64encode
from binascii import Error as BadBase64
from hashlib import sha256
from typing import Any

from flower.app import Flower
from flower.inspector import Inspector
from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.web import OutputTransform, RequestHandler

READING = frozenset({"GET", "HEAD"})
TABLE = "/tasks/datatable"
"""Flower's page of tasks asks for its rows by POST; it changes nothing."""
CLOSED = ("/metrics", "/login", "/logout")
INLINE = "\nvar autorefresh = 1;\n"
"""The one script that Flower 2.2 writes into a page (that of workers); its hash lets it run, and no other."""
_INLINE_HASH = b64encode(sha256(INLINE.encode()).digest()).decode()
HEADERS = {
    # Scripts come from Flower's own files alone: text of a message that got past its escaping would still not run.
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self' 'sha256-{_INLINE_HASH}'; style-src 'self' 'unsafe-inline';"
        " img-src 'self' data:; font-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")
MESSAGES = {401: "sign in\n", 403: "this Flower shows, and changes nothing\n"}


class GuardedFlower(Flower):  # type: ignore[misc]  # flower ships no types
    """Flower that answers nobody without the password, and nobody who wants to change something."""

    def __init__(self, *, credentials: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._credentials = credentials.encode()
        self._prefix = "/" + prefix if (prefix := (self.options.url_prefix or "").strip("/")) else ""
        self.add_transform(_Headers)
        self.inspector = _MaskingInspector(self.io_loop, self.capp, self.options.inspect_timeout / 1000.0)

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        """Tornado's way from a request to what answers it."""
        status = self._refusal(request)
        if status:
            return self.get_handler_delegate(request, _Refused, {"status": status})
        return super().find_handler(request, **kwargs)

    def _refusal(self, request: HTTPServerRequest) -> int | None:
        if not self._knows(request.headers.get_list("Authorization")):
            return 401
        path = request.path.removeprefix(self._prefix)
        if any(path == closed or path.startswith(f"{closed}/") for closed in CLOSED):
            return 403
        if request.method not in READING and (request.method, path) != ("POST", TABLE):
            return 403
        return None

    def _knows(self, told: list[str]) -> bool:
        if len(told) != 1:
            return False
        scheme, _, encoded = told[0].partition(" ")
        try:
            given = b64decode(encoded.strip(), validate=True)
        except (BadBase64, ValueError):
            return False
        return scheme.lower() == "basic" and hmac.compare_digest(given, self._credentials)


class _MaskingInspector(Inspector):  # type: ignore[misc]  # as above
    """Workers tell of their broker; with redis+socket://:PASSWORD@/PATH Celery leaves the password in its name."""

    def _on_update(self, workername: str, method: str, response: Any) -> None:
        super()._on_update(workername, method, masked(response))


def masked(told: Any) -> Any:
    """The same JSON value without user and password in any URL."""
    if isinstance(told, dict):
        return {masked(name): masked(value) for name, value in told.items()}
    if isinstance(told, list):
        return [masked(value) for value in told]
    return CREDENTIALS.sub("***@", told) if isinstance(told, str) else told


class _Refused(RequestHandler):
    """The answer to whoever may not."""

    def initialize(self, status: int) -> None:
        """Tornado's constructor."""
        self._status = status

    def check_xsrf_cookie(self) -> None:
        """Nothing is done here that a cookie could protect."""

    def prepare(self) -> None:
        """Answer, whatever the method."""
        self.set_status(self._status)
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        if self._status == 401:
            self.set_header("WWW-Authenticate", 'Basic realm="caption-audit", charset="UTF-8"')
        self.finish(MESSAGES[self._status])


class _Headers(OutputTransform):
    """Puts the headers on every answer."""

    def __init__(self, request: HTTPServerRequest) -> None:
        """As Tornado makes it; the request does not matter."""

    def transform_first_chunk(
        self,
        status_code: int,
        headers: HTTPHeaders,
        chunk: bytes,
        finishing: bool,  # noqa: ARG002 - Tornado's signature
    ) -> tuple[int, HTTPHeaders, bytes]:
        """Tornado's hook before the first byte."""
        for name, value in HEADERS.items():
            headers[name] = value
        headers.pop("Server", None)
        return status_code, headers, chunk
