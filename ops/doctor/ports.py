"""The ports that this host's processes listen on: free, ours, or somebody else's."""

import errno
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address

from audit.settings import Settings
from ops.doctor.lines import Line, ok, wrong
from ops.doctor.processes import describe, is_ours


def port_lines(settings: Settings) -> Iterator[Line]:
    """Flower's, and that of the workers' metrics and health pages."""
    yield port_line("Flower", settings.flower_address, settings.flower_port, "AUDIT_FLOWER_PORT", "Flower")
    if settings.http_port:
        who = "a worker's metrics and health pages"
        yield port_line("metrics", settings.http_address, settings.http_port, "AUDIT_HTTP_PORT", who)


def port_line(what: str, address: str, port: int, setting: str, who: str) -> Line:
    """Whether one port can be listened on; a listener that is there is not disturbed."""
    name, shown = f"port of {what}", f"{address}:{port}"
    means = f"{who} cannot listen there"
    for pid in _listeners(address, port):
        if pid is not None and is_ours(pid):
            return ok(name, f"{shown}: ours, {describe(pid)}")
        holder = "by a process that this user cannot see" if pid is None else f"by {describe(pid)}"
        return wrong(name, f"{shown} is taken {holder}", means=means, cure=f"end it, or set {setting} to another one")
    try:
        _bind(address, port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        cure = f"set {setting} to a free port of 1024 or more"
        if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            cure = f"set {setting.replace('PORT', 'ADDRESS')} to an address of this host"
        return wrong(name, f"{shown}: {reason}", means=means, cure=cure)
    return ok(name, f"{shown} is free")


def _listeners(address: str, port: int) -> Iterator[int | None]:
    """Pids of who listens there; None for one of another user."""
    import psutil

    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return
    for one in connections:
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port and _same(one.laddr.ip, address):
            yield one.pid


def _same(listening: str, address: str) -> bool:
    """Whether a listener on one address is in the way of one on the other."""
    try:
        first, second = ip_address(listening), ip_address("127.0.0.1" if address == "localhost" else address)
    except ValueError:
        return True
    return first == second or first.is_unspecified or second.is_unspecified


def _bind(address: str, port: int) -> None:
    family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        probe.bind(where)
