"""The pages of a worker over HTTP: bounded, patient with nobody, and never in the way of a fork."""

import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.ports import free_port
from tests.support.waiting import wait_until
from worker.pages import MOST_REQUEST_BYTES, Page, Routes
from worker.serving import MOST_VISITS, VISIT_S, Serving

HELLO = b"hello\n"
ROUTES: Routes = {"/metrics": lambda: Page(body=HELLO), "/broken": lambda: Page(body=str(1 // 0).encode())}


@contextmanager
def serving(routes: Routes = ROUTES, *, port: int | None = None, again_s: float = 0.1) -> Iterator[Serving]:
    server = Serving(routes, address="127.0.0.1", port=port or free_port(), again_s=again_s)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def port_of(server: Serving) -> int:
    return wait_until(lambda: server.port, timeout_s=60, what="the pages to be served")


def asked(port: int, path: str = "/metrics", *, method: str = "GET") -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def said(port: int, request: bytes) -> bytes:
    """Everything that is answered until the connection's end."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as visitor:
        visitor.sendall(request)
        return b"".join(iter(lambda: visitor.recv(65536), b""))


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_a_page_is_found_by_its_path_and_nothing_else_is() -> None:
    """A scraper that is set up wrongly must be told so, and one page that fails must not cost the others theirs."""
    with serving() as server:
        port = port_of(server)
        assert asked(port) == (200, HELLO)
        assert asked(port, "/metrics?name[]=up") == (200, HELLO)
        assert asked(port, method="HEAD") == (200, b"")
        assert asked(port, "/metrics/") == (404, b"Not Found: there is /broken /metrics\n")
        assert asked(port, "/broken") == (500, b"Internal Server Error: see the worker's log\n")
        assert asked(port, method="POST") == (405, b"Method Not Allowed: GET and HEAD alone\n")
        assert asked(port) == (200, HELLO)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01 TLS hello\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET /" + b"\xff" * 20 + b" HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"a" * MOST_REQUEST_BYTES + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000, 431),
        (b"GET /../metrics HTTP/1.0\r\nHost: x\r\n\r\n", 404),
    ],
)
def test_what_is_no_request_is_refused(request_: bytes, status: int) -> None:
    """Whatever reaches the port costs a bounded piece of memory and gets an answer."""
    with serving() as server:
        port = port_of(server)
        assert status_of(said(port, request_)) == status
        assert asked(port) == (200, HELLO)


def test_slow_and_many_visitors_keep_nobody_waiting() -> None:
    """A visitor who says nothing, or who reads nothing, must not hide a worker from its scraper."""
    large = b"x" * 20_000_000  # more than the kernel keeps for a visitor who does not read
    with serving({**ROUTES, "/large": lambda: Page(body=large)}) as server:
        port = port_of(server)
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(MOST_VISITS + 8)]
        silent[-1].sendall(b"GET /large HTTP/1.1\r\n\r\n")
        began = time.monotonic()
        assert asked(port) == (200, HELLO)
        assert time.monotonic() - began < VISIT_S, "the silent ones were waited for"
        for visitor in silent:  # a trickle does not lengthen a visit
            visitor.settimeout(60)
        wait_until(lambda: trickled(silent[-2]), timeout_s=60, what="a visit that goes on too long to be ended")
        assert asked(port, "/large") == (200, large)
        for visitor in silent:
            visitor.close()


def trickled(visitor: socket.socket) -> bool:
    try:
        visitor.sendall(b"G")
    except OSError:
        return True
    return False


def test_the_next_worker_of_a_host_gets_the_port_when_it_is_free() -> None:
    """Two workers of a host have one setting: the second one says so once, judges, and takes over later."""
    with capture_logs() as lines, serving() as first:
        port = port_of(first)
        with serving(port=port) as second:
            wait_until(lambda: warnings(lines), timeout_s=60, what="the second one to complain")
            time.sleep(0.5)  # several more tries
            (warning,) = warnings(lines)
            assert warning["reason"] == "Address already in use"
            assert "AUDIT_HTTP_PORT" in warning["cure"]
            assert second.url is None
            first.stop()
            assert port_of(second) == port
            assert asked(port) == (200, HELLO)


def warnings(lines: Sequence[Any]) -> list[Any]:
    return [line for line in lines if line["event"] == "pages not served"]


def forked(in_child: Callable[[], int]) -> int:
    """Exit status of a fork of this process, which must have ended within a minute."""
    pid = os.fork()
    if pid == 0:
        os._exit(in_child())
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


def test_a_fork_meets_no_answer_and_a_child_keeps_no_socket() -> None:
    """Pool processes are made while Prometheus asks: none may copy a lock that is held, or the listening socket.

    Safeguard: a fork takes the lock under which pages are made (worker/serving.py).
    """
    held = threading.Lock()  # as one of a library that a page uses

    def page() -> Page:
        with held:
            time.sleep(0.002)
        return Page(body=HELLO)

    def in_child() -> int:
        sockets = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if exists(number)]
        mine = [name for name in sockets if name in inodes]
        return 1 if mine else 0 if held.acquire(timeout=1) else 2

    over = threading.Event()
    with serving({"/metrics": page}) as server:
        port = port_of(server)
        assert server._listener is not None
        inodes = {os.readlink(f"/proc/self/fd/{server._listener.fileno()}")}
        storm = [threading.Thread(target=ask_on, args=(port, over)) for _ in range(4)]
        for thread in storm:
            thread.start()
        try:
            assert {forked(in_child) for _ in range(100)} == {0}
        finally:
            over.set()
            for thread in storm:
                thread.join(timeout=60)
        assert asked(port) == (200, HELLO)


def ask_on(port: int, over: threading.Event) -> None:
    while not over.is_set():
        assert asked(port) == (200, HELLO)


def exists(number: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


def test_a_child_can_fork_at_once() -> None:
    """A lock that the fork itself held stays held in the child: a child's own fork would wait for it for 20 s."""
    with serving() as server:
        port_of(server)
        began = time.monotonic()
        assert forked(lambda: forked(lambda: 0)) == 0
        assert time.monotonic() - began < 15
