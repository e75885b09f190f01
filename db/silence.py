"""A connection to PostgreSQL that does not wait for ever for an answer.

When something between (a pooler that hangs, a firewall, a proxy) acknowledges what is sent and passes nothing on, the
kernel sees a connection that is well: keepalives are answered and tcp_user_timeout never fires.
"""

import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

T = TypeVar("T")


def patient_for(silent_s: float) -> "type[psycopg.Connection[Any]]":
    """A class of connections that give up, and are closed, when an answer is silent for so long."""

    class Patient(psycopg.Connection[Any]):
        def wait(self, gen: PQGen[T], *args: Any, **named: Any) -> T:
            return super().wait(_heard(gen, self, silent_s), *args, **named)

    return Patient


def _heard(gen: PQGen[T], connection: "psycopg.Connection[Any]", silent_s: float) -> PQGen[T]:
    """The same exchange with the server; psycopg looks in ten times a second, with 0 when there was nothing to hear."""
    heard_at = time.monotonic()
    try:
        waits_for = next(gen)
        while True:
            ready = yield waits_for
            now = time.monotonic()
            if ready:
                heard_at = now
            elif now - heard_at > silent_s:
                connection.pgconn.finish()  # what it would answer later belongs to a question that nobody asks any more
                raise psycopg.OperationalError(f"PostgreSQL was silent for {silent_s:g} s")
            waits_for = gen.send(ready)
    except StopIteration as end:
        answer: T = end.value
        return answer
