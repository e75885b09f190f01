"""What one worker process judges with."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from audit.verdict import Scores
from worker.batching import MicroBatch
from worker.device_lock import DeviceLock
from worker.engines.base import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What one worker process judges with. `remember` looks a content key up in the cache."""

    engine: Engine
    prove: Callable[[Engine], object]
    remember: Callable[[str], Scores | None]
    max_caption_chars: int
    micro_batch: MicroBatch
    device: DeviceLock | None  # None where nobody competes for memory
    decoders: ThreadPoolExecutor
    decode_ahead: int
    pair_limit_s: float = math.inf
    slow_pair_s: float = math.inf
    on_cpu: Engine | None = None  # the same model on the CPU; None where that is not wanted
