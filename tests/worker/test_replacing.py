"""A process whose pipe has closed is looked at until it can be replaced."""

import os
from collections.abc import Callable
from types import SimpleNamespace

from worker.replacing import LOOK_EVERY_S, replace_at_once


class Pool:
    """As much of billiard's pool as is looked at: one process, which is taken away at the third look."""

    def __init__(self) -> None:
        self.sentinel, self.held_by_child = os.pipe()
        self._pool = [SimpleNamespace(_popen=SimpleNamespace(sentinel=self.sentinel))]
        self.looks = 0

    def maintain_pool(self) -> None:
        """Take the process away at the third look."""
        self.looks += 1
        if self.looks == 3:
            self._pool.clear()


def test_a_pool_looks_again_until_a_process_that_has_closed_its_files_is_gone() -> None:
    """Celery looks once, when the pipe closes, and again in five seconds; a GPU's memory takes long to give back."""
    pool = Pool()
    later: list[tuple[float, Callable[[], None]]] = []
    for _ in range(2):  # with each new connection to Redis, too
        replace_at_once(pool, lambda seconds, work: later.append((seconds, work)))
    try:
        pool.maintain_pool()
        assert (pool.looks, later) == (1, []), "a living process is not waited for"
        os.close(pool.held_by_child)
        pool.maintain_pool()
        ((pause_s, again),) = later
        later.clear()
        again()
        assert (pause_s, pool.looks, later) == (LOOK_EVERY_S, 3, [])
    finally:
        os.close(pool.sentinel)
