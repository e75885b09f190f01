"""A child that has ended is replaced as soon as it can be; Celery alone may need five seconds to see it.

Celery is told of an end by a pipe, which the kernel closes a moment before the process can be waited for; with a GPU's
memory to give back that moment is long. Celery looks once, finds the process alive, and looks again with its next round
of every five seconds. Until then the message that was meant for the dead child stays in its pipe, and a neighbour that
has nothing to do is not given it.
"""

import os
import select
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

LOOK_EVERY_S = 0.05


def replace_at_once(pool: Any, call_later: Callable[[float, Callable[[], None]], object]) -> None:
    """Have this billiard pool look again and again while a child ends; for one pool it does nothing the second time.

    `call_later` is the event loop's, and used in the main thread alone.
    """
    maintain = pool.maintain_pool
    if getattr(maintain, "at_once", False):
        return
    waits = False

    def again() -> None:
        nonlocal waits
        waits = False
        maintain_pool()

    def maintain_pool() -> None:
        nonlocal waits
        maintain()
        if not waits and any(map(_is_ending, pool._pool)):
            waits = True
            call_later(LOOK_EVERY_S, again)

    maintain_pool.at_once = True  # type: ignore[attr-defined]  # a mark on our own function
    pool.maintain_pool = maintain_pool


def leave_when_told(exitcode: int) -> None:
    """In a pool process, when all that it has to say is said: end with this status as soon as billiard asks for it.

    Its main process answers the last message with a SIGTERM; without that, the process waits a second for it.
    """
    signal.signal(signal.SIGTERM, partial(_leave, exitcode))


def _leave(exitcode: int, *_: object) -> None:
    os._exit(exitcode)


def _is_ending(process: Any) -> bool:
    """Whether the process has closed its files; its status may not be there yet."""
    sentinel = process._popen and process._popen.sentinel
    if sentinel is None:
        return False
    poll = select.poll()
    poll.register(sentinel, select.POLLIN)
    return bool(poll.poll(0))
