"""Redis: whether it answers and lets us in, its version, what it keeps, what it drops, and how full it is."""

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from audit.broker import Weakness, weaknesses_in
from audit.errors import BrokerRefused, BrokerUnavailable, Unavailable
from audit.settings import Settings
from audit.urls import redact
from ops.doctor.lines import Line, ok, warning, wrong
from ops.queue_messages import redis_client

NEARLY_FULL = 0.8
MB = 1e6
LATE = frozenset({"persistence"})
"""What costs time after a restart and nothing else: a warning."""
READ_URL = "look at REDIS_URL, at the network, and whether Redis runs"


def redis_lines(settings: Settings, *, limit_s: float) -> Iterator[Line]:
    """Everything that Redis tells of itself."""
    if settings.redis_url is None and not settings.redis_socket.exists():
        yield _ours_is_down(settings)
        return
    half_s = limit_s / 2  # it connects, and then it answers
    try:
        with redis_client(settings.broker_url, connect_s=half_s, answer_s=half_s) as client:
            yield from _asked(client, settings)
    except BrokerRefused as error:
        where = redact(settings.broker_url)
        means = "no message comes in or out"
        yield wrong("reachable", f"{where}: it does not let us in", means=means, cure=error.detail)
    except BrokerUnavailable as error:
        found = f"{redact(settings.broker_url)}: {error.detail}"
        means = "submitted pairs wait in the ledger, and nothing is judged until it answers"
        yield wrong("reachable", found, means=means, cure=READ_URL)


def _asked(client: Any, settings: Settings) -> Iterator[Line]:
    import redis

    client.ping()
    yield ok("reachable", redact(settings.broker_url))
    yield from password_lines(settings)
    try:
        info = client.info()
    except redis.exceptions.NoPermissionError:
        means = "nobody can tell how it is set up, nor how full it is"
        yield warning("INFO", "this user may not ask", means=means, cure="ACL SETUSER ... +info")
        return
    weak = {weakness.name: weakness for weakness in weaknesses_in(info)}
    yield _line("version", f"{info.get('redis_version', 'unknown')}", weak)
    kept = "yes" if info.get("aof_enabled") else "no"
    yield _line("persistence", f"append-only file: {kept}, last write {info.get('aof_last_write_status', '?')}", weak)
    yield _line("eviction", f"maxmemory-policy {info.get('maxmemory_policy', 'unknown')}", weak)
    yield _line("role", f"{info.get('role', 'unknown')}", weak)
    yield _memory(info)


def _line(name: str, found: str, weak: Mapping[str, Weakness]) -> Line:
    weakness = weak.get(name)
    if weakness is None:
        return ok(name, found)
    state = warning if name in LATE else wrong
    return state(name, found, means=weakness.means, cure=weakness.cure)


def _memory(info: Mapping[str, Any]) -> Line:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    machine = int(info.get("total_system_memory", 0))
    cure = "raise maxmemory, or see what else is in it: caption-audit needs a few megabytes (`caption-audit queue`)"
    if not limit:
        shown = f"{used / MB:,.1f} MB used, no limit"
        if machine and used > NEARLY_FULL * machine:
            means = "the kernel may kill Redis when memory ends"
            return warning("memory", f"{shown}, {machine / MB:,.0f} MB in the machine", means=means, cure=cure)
        return ok("memory", shown)
    shown = f"{used / MB:,.1f} of {limit / MB:,.1f} MB used"
    if used >= limit:
        means = "it takes no messages, or drops others: pairs wait in the ledger"
        return wrong("memory", shown, means=means, cure=cure)
    if used > NEARLY_FULL * limit:
        return warning("memory", shown, means="when it is full it takes no messages", cure=cure)
    return ok("memory", shown)


def password_lines(settings: Settings) -> Iterator[Line]:
    """A Redis that others can reach without a password takes messages from anybody."""
    parts = urlsplit(settings.broker_url)
    if parts.password:
        yield ok("password", "one is given")
    elif parts.hostname and not _is_loopback(parts.hostname):
        means = f"whoever reaches {parts.hostname} can read, change and delete messages"
        cure = "set `requirepass` in its configuration, and AUDIT_REDIS_PASSWORD here"
        yield warning("password", "none", means=means, cure=cure)


def _ours_is_down(settings: Settings) -> Line:
    from ops.local_redis import find_server

    try:
        find_server()
    except Unavailable as error:
        means = "REDIS_URL is not set, and `up` cannot start a Redis of its own"
        return wrong("reachable", error.detail, means=means, cure="install redis or valkey, or set REDIS_URL")
    found = f"the Redis of our own does not run ({settings.redis_socket})"
    means = "nothing is judged; it runs as long as `caption-audit up` does"
    return warning("reachable", found, means=means, cure="`caption-audit up`, or set REDIS_URL if another one is meant")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
