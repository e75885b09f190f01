"""A mail server and a webhook on 127.0.0.1 that keep what they are sent."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast


class _MailServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    mails: list[str]


class _Mail(socketserver.StreamRequestHandler):
    """As much of SMTP as a client without TLS and login needs."""

    def handle(self) -> None:
        self._say("220 here")
        while line := self.rfile.readline().decode(errors="replace").strip():
            verb = line[:4].upper()
            if verb == "DATA":
                self._say("354 go on")
                lines = iter(self.rfile.readline, b".\r\n")
                cast(_MailServer, self.server).mails.append(b"".join(lines).decode(errors="replace"))
            self._say("221 bye" if verb == "QUIT" else "250 fine")
            if verb == "QUIT":
                return

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class _WebServer(ThreadingHTTPServer):
    calls: list[tuple[str, Any]]


class _Call(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        cast(_WebServer, self.server).calls.append((self.headers.get("Authorization", ""), json.loads(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@contextmanager
def mail_server() -> Iterator[tuple[int, list[str]]]:
    """Its port, and the mails that it was sent, with their headers."""
    server = _MailServer(("127.0.0.1", 0), _Mail)
    server.mails = []
    with _served(server):
        yield server.server_address[1], server.mails


@contextmanager
def webhook() -> Iterator[tuple[int, list[tuple[str, Any]]]]:
    """Its port, and the calls: the header Authorization, and the JSON."""
    server = _WebServer(("127.0.0.1", 0), _Call)
    server.calls = []
    with _served(server):
        yield server.server_address[1], server.calls


@contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
