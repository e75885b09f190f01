"""How much more memory a process holds than after its first chunks: one that leaks is replaced in time."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from worker.engines.base import Engine

FIRST_CHUNKS = 2
"""Until then memory grows as it should: caches fill, weights that were mapped are read for the first time."""
MB = 1_000_000


def device_bytes(engine: Engine) -> int:
    """What this process has reserved of its device; 0 where there is nothing worth counting."""
    memory = engine.memory()
    return 0 if memory is None else memory.reserved_bytes


@dataclass(kw_only=True)
class Growth:
    """Asked between two chunks. `most_rss_bytes` and `most_device_bytes` are how much more is allowed; 0: any.

    It is the memory of the moment that counts, and not the most there ever was (as Celery's own limit has it): loading
    a model, or one large picture, needs much for a second.
    """

    engine: Engine
    most_rss_bytes: int
    most_device_bytes: int
    _first_rss: int | None = None
    _first_device: int = 0

    def over(self, served: int) -> Mapping[str, object] | None:
        """Why this process should be replaced, for the log; None as long as it should not."""
        if served < FIRST_CHUNKS:
            return None
        rss, device = rss_bytes(), device_bytes(self.engine)
        if self._first_rss is None:
            self._first_rss, self._first_device = rss, device
        if self.most_rss_bytes and rss - self._first_rss > self.most_rss_bytes:
            return {"reason": "memory has grown", "first_mb": self._first_rss // MB, "now_mb": rss // MB}
        if self.most_device_bytes and device - self._first_device > self.most_device_bytes:
            return self._device_over()
        return None

    def _device_over(self) -> Mapping[str, object] | None:
        # What torch has only cached, after a batch of long captions say, is no reason to load a model again.
        self.engine.release_memory()
        device = device_bytes(self.engine)
        if device - self._first_device <= self.most_device_bytes:
            return None
        return {"reason": "device memory has grown", "first_mb": self._first_device // MB, "now_mb": device // MB}


def rss_bytes() -> int:
    """What this process holds of the host's memory at the moment."""
    return int(psutil.Process(os.getpid()).memory_info().rss)
