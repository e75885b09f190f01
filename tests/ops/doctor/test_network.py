"""Ports that somebody has, and proxies that are in the way."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.settings import Settings
from ops.doctor.lines import Line, State
from ops.doctor.ports import port_line, port_lines
from ops.doctor.proxy import proxy_lines
from tests.ops.doctor.conftest import Named
from tests.support.ports import free_port

LISTEN = """
import socket, sys
taken = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listens", flush=True)
sys.stdin.read()
"""
ITSELF = {"NO_PROXY": "localhost,127.0.0.1"}


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A port that this process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def look(port: int, address: str = "127.0.0.1") -> Line:
    return port_line("Flower", address, port, "AUDIT_FLOWER_PORT", "Flower")


def test_a_free_port_is_ok_and_stays_free() -> None:
    """Asking must not take it."""
    port = free_port()
    assert look(port).state is State.OK
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "localhost"])  # noqa: S104 - nothing is bound
def test_a_port_that_is_taken_is_told_with_who_has_it(taken: socket.socket, address: str) -> None:
    """The process, so that one can end it; its arguments, which may hold passwords, are not shown."""
    line = look(taken.getsockname()[1], address)
    assert (line.state, f"process {os.getpid()} (" in line.found) == (State.WRONG, True)
    assert "AUDIT_FLOWER_PORT" in line.cure


def test_a_port_that_we_have_is_ok(tmp_path: Path) -> None:
    """A worker that runs has it: that is what it is for."""
    script, port = tmp_path / "caption-audit", free_port()
    script.write_text(LISTEN)
    pipe = subprocess.PIPE
    ours = subprocess.Popen([sys.executable, str(script), str(port)], stdin=pipe, stdout=pipe, text=True)
    try:
        assert ours.stdout is not None
        assert ours.stdout.readline() == "listens\n"
        assert (look(port).state, f"ours, process {ours.pid} (" in look(port).found) == (State.OK, True)
    finally:
        ours.kill()
        ours.communicate()


def test_an_address_of_another_host_is_wrong() -> None:
    """Nobody can listen there (an address of documentation, RFC 5737)."""
    line = look(free_port(), "192.0.2.1")
    assert (line.state, "AUDIT_FLOWER_ADDRESS" in line.cure) == (State.WRONG, True)


def test_a_port_of_zero_is_none(named: Named) -> None:
    """A worker without pages takes no port."""
    ports = {"flower_port": free_port(), "http_port": free_port()}
    assert [line.name for line in port_lines(Settings.model_validate(ports))] == ["port of Flower", "port of metrics"]
    assert [line.name for line in port_lines(Settings.model_validate(ports | {"http_port": 0}))] == ["port of Flower"]


def test_no_proxy_is_ok(named: Named) -> None:
    """The usual case."""
    assert named(proxy_lines({"HTTP_PROXY": ""}), "proxy").state is State.OK


def test_a_proxy_that_answers_is_ok_and_its_password_is_not_shown(taken: socket.socket, named: Named) -> None:
    """What goes through it is said, and this host's own pages do not."""
    where = f"127.0.0.1:{taken.getsockname()[1]}"
    told = list(proxy_lines({"HTTPS_PROXY": f"http://me:hunter2222@{where}", **ITSELF}))
    assert {line.state for line in told} == {State.OK}
    assert where in named(told, "HTTPS_PROXY").found
    assert "hunter2222" not in repr(told)


@pytest.mark.parametrize(
    ("value", "state"),
    [("http://127.0.0.1:{free}", State.WARNING), ("127.0.0.1:{free}", State.WARNING), ("http://[", State.WRONG)],
)
def test_a_proxy_that_cannot_be_used_is_told(named: Named, value: str, state: State) -> None:
    """Otherwise the hub is blamed for it."""
    environ = {"https_proxy": value.format(free=free_port()), **ITSELF}
    assert named(proxy_lines(environ), "HTTPS_PROXY").state is state


def test_this_host_goes_through_no_proxy(taken: socket.socket, named: Named) -> None:
    """A proxy elsewhere knows another 127.0.0.1."""
    proxy = {"http_proxy": f"http://127.0.0.1:{taken.getsockname()[1]}"}
    assert named(proxy_lines(proxy | {"no_proxy": "internal"}), "NO_PROXY").state is State.WARNING
    assert named(proxy_lines(proxy | {"no_proxy": "*"}), "NO_PROXY").state is State.OK
