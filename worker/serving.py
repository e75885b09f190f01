"""A worker's pages over HTTP: a thread of the main process, which forks whenever a pool process is to be replaced.

A fork in the middle of an answer would copy held locks into the child. So all that the thread does is done under a lock
that a fork takes as well, and is short: it waits in poll() alone, where it holds nothing, and pages are made of what is
in memory. A child closes its copies of the sockets: one that outlives its main process must not keep the port.
"""

import os
import select
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from telemetry.logs import logger
from worker.pages import MOST_REQUEST_BYTES, Routes, is_whole, response

log = logger(__name__)
AGAIN_S = 30.0
"""Between two tries to listen: the port is free again when the worker that had it has left."""
VISIT_S = 5.0
"""Longest that a connection may last, from its beginning to its end."""
MOST_VISITS = 32
"""At a time; one more, and the oldest is closed."""
FORK_WAIT_S = 20.0
"""Longest that a fork waits for an answer; making one takes milliseconds."""
LOOK_EVERY_S = 1.0


@dataclass(slots=True, kw_only=True, eq=False)
class _Visit:
    """A connection: what has come, what is to be sent (None: not known yet), and until when it may last."""

    socket: socket.socket
    until: float
    received: bytes = b""
    to_send: memoryview | None = None
    ending: bool = False  # all is sent: what else the visitor has to say is read, or he would see a reset connection


class Serving:
    """The thread. `start` it once in the main process, before its first fork; `routes` may grow until then."""

    def __init__(self, routes: Routes, *, address: str, port: int, again_s: float = AGAIN_S) -> None:
        self._routes = routes
        self._where = (address, port)
        self._again_s = again_s
        self._lock = threading.Lock()
        self._fork_waits = self._fork_held = False
        self._stopped = False
        self._listener: socket.socket | None = None
        self._visits: list[_Visit] = []
        self._try_at = 0.0
        self._complained: str | None = None
        self._thread = threading.Thread(target=self._run, name="pages", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens; 0 while it does not."""
        return self._where[1] if self._listener is not None else 0

    @property
    def url(self) -> str | None:
        """Where the pages are, for this host; None while nobody listens."""
        if not self.port:
            return None
        address, port = self._where
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 - it is read, not bound
        return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"

    def start(self) -> None:
        """Begin to listen, as soon as the port is free."""
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child)
        self._thread.start()

    def stop(self) -> None:
        """Close everything; a worker that ends need not call it."""
        self._stopped = True
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped:
            try:
                ready = self._wait()
                if self._stopped:
                    break
                while (
                    self._fork_waits
                ):  # a lock goes to whoever is quickest: in a storm of requests that is this thread
                    time.sleep(0.001)
                with self._lock:
                    self._serve(ready)
            except Exception:
                log.exception("pages failed")
                time.sleep(LOOK_EVERY_S)
        self._close_all()

    def _wait(self) -> set[int]:
        """File descriptors with something to do; the one place where this thread waits."""
        poll = select.poll()
        if self._listener is not None:
            poll.register(self._listener, select.POLLIN)
        for visit in self._visits:
            poll.register(visit.socket, select.POLLIN if visit.to_send is None or visit.ending else select.POLLOUT)
        wait_s = min([LOOK_EVERY_S, *(visit.until - time.monotonic() for visit in self._visits)])
        return {number for number, _ in poll.poll(max(0.0, wait_s) * 1000)}

    def _serve(self, ready: set[int]) -> None:
        now = time.monotonic()
        for visit in list(self._visits):
            try:
                over = visit.until <= now or (visit.socket.fileno() in ready and self._go_on(visit))
            except BlockingIOError:
                continue
            except OSError:
                over = True  # the visitor has left
            if over:
                self._end(visit)
        if self._listener is None:
            self._listen(now)
        elif self._listener.fileno() in ready:
            self._accept(self._listener, now)

    def _go_on(self, visit: _Visit) -> bool:
        """One step of a visit that has something to do; whether it was the last."""
        if visit.ending:
            return not visit.socket.recv(MOST_REQUEST_BYTES)
        if visit.to_send is None:
            come = visit.socket.recv(MOST_REQUEST_BYTES - len(visit.received))
            visit.received += come
            if come and not is_whole(visit.received):
                return False
            if not come:
                return True
            visit.to_send = memoryview(response(visit.received, self._routes))
        visit.to_send = visit.to_send[visit.socket.send(visit.to_send) :]
        if not visit.to_send:
            # Not close(): a child that was forked meanwhile may hold a copy, and the visitor waits for the end.
            visit.socket.shutdown(socket.SHUT_WR)
            visit.ending = True
        return False

    def _accept(self, listener: socket.socket, now: float) -> None:
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        accepted.setblocking(False)
        if len(self._visits) >= MOST_VISITS:
            self._end(self._visits[0])
        self._visits.append(_Visit(socket=accepted, until=now + VISIT_S))

    def _listen(self, now: float) -> None:
        if now < self._try_at:
            return
        self._try_at = now + self._again_s
        address, port = self._where
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind((address, port))
            listener.listen(MOST_VISITS)
        except OSError as error:
            listener.close()
            self._complain(error.strerror or str(error))
            return
        self._listener = listener
        log.info("pages served", url=self.url, paths=sorted(self._routes))

    def _complain(self, reason: str) -> None:
        """Once: the next worker of a host may wait for the port as long as the first one lives."""
        if reason != self._complained:
            address, port = self._where
            cure = "set AUDIT_HTTP_PORT to a free port for each worker of this host, or to 0 for no pages"
            log.warning("pages not served", address=address, port=port, reason=reason, cure=cure, again_s=self._again_s)
        self._complained = reason

    def _end(self, visit: _Visit) -> None:
        self._visits.remove(visit)
        with suppress(OSError):
            visit.socket.shutdown(socket.SHUT_RDWR)
        visit.socket.close()

    def _close_all(self) -> None:
        """Close this process's copies."""
        for visit in self._visits:
            visit.socket.close()
        if self._listener is not None:
            self._listener.close()
        self._visits, self._listener = [], None

    def _before_fork(self) -> None:
        self._fork_waits = True
        self._fork_held = threading.current_thread() is not self._thread and self._lock.acquire(timeout=FORK_WAIT_S)

    def _after_fork(self) -> None:
        if self._fork_held:
            self._fork_held = False
            self._lock.release()
        self._fork_waits = False

    def _in_child(self) -> None:
        self._lock = threading.Lock()
        self._fork_waits = self._fork_held = False
        self._close_all()
