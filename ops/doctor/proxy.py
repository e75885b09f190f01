"""Proxies in the environment: what goes through them, and what should not."""

import socket
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from audit.urls import redact
from ops.doctor.lines import Line, ok, warning, wrong

NAMES = ("https_proxy", "http_proxy", "all_proxy")
CONNECT_S = 3.0
ITSELF = "127.0.0.1"


def proxy_lines(environ: Mapping[str, str]) -> Iterator[Line]:
    """Each proxy that is set: understood, and reachable; and whether this host itself is left out."""
    given = {name: value for name in NAMES if (value := environ.get(name) or environ.get(name.upper()))}
    if not given:
        yield ok("proxy", "none is set")
        return
    reached: dict[str, str] = {}
    for name, value in given.items():
        yield _proxy(name, value, reached)
    left_out = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if _covers(left_out):
        yield ok("NO_PROXY", f"leaves {ITSELF} out")
    else:
        means = "curl, Prometheus and other clients ask the proxy for this host's own pages (Flower, metrics)"
        cure = f"add {ITSELF},localhost to NO_PROXY"
        yield warning("NO_PROXY", f"does not name {ITSELF}", means=means, cure=cure)


def _proxy(name: str, value: str, reached: dict[str, str]) -> Line:
    """Its host and port are shown, its user and password never."""
    label = name.upper()
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host, port = parts.hostname, parts.port or {"https": 443, "socks5": 1080}.get(parts.scheme, 80)
    except ValueError:
        host, port = None, 0
    if not host:
        means = "`model fetch` and whatever else goes through it fails"
        return wrong(label, "is no URL of a proxy", means=means, cure="write it as http://HOST:PORT, or unset it")
    shown = f"{redact(parts.geturl())}; `model fetch` goes through it, Redis and SQL do not"
    where = f"{host}:{port}"
    if where not in reached:
        reached[where] = _unreachable(host, port)
    if reached[where]:
        means = "`model fetch` fails; workers, which never download, do not mind"
        return warning(
            label, f"{shown}: {reached[where]}", means=means, cure="start the proxy, mend the URL, or unset it"
        )
    return ok(label, shown)


def _unreachable(host: str, port: int) -> str:
    """Why nobody answers there; empty when somebody does."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        return f"{host}:{port} does not answer ({error.strerror or error})"
    return ""


def _covers(left_out: str) -> bool:
    entries = {entry.strip() for entry in left_out.split(",")}
    return bool(entries & {"*", ITSELF, "127.0.0.0/8"})
