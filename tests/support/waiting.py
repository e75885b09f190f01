"""Waiting for a condition instead of sleeping for a guess."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, timeout_s: float, what: str) -> T:
    """Ask again and again until the answer is true, and return it; AssertionError names what did not happen."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.005
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.2)
    return answer
