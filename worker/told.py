"""What the log says of a chunk, and of its pairs: how long each stage took, with what memory, on how warm a device."""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from audit.verdict import Failure, Outcome
from telemetry.devices import read_device
from telemetry.logs import SLOW, logger
from telemetry.stages import about, milliseconds
from worker.desk import Desk
from worker.engines.base import Engine
from worker.memory import rss_bytes

if TYPE_CHECKING:
    from worker.judging import Looked

log = logger(__name__)


class Effort:
    """Begun with a chunk; at its end, the fields of its line."""

    def __init__(self) -> None:
        self._began, self._worked = time.monotonic(), time.process_time()

    def told(self, engine: Engine) -> dict[str, Any]:
        """Seconds, milliseconds by stage, memory, processor and device; asks the device for nothing it waits for.

        Stages of several threads are summed up, so that they may come to more than the chunk took.
        """
        took_s = time.monotonic() - self._began
        worked = time.process_time() - self._worked
        told: dict[str, Any] = {"took_s": round(took_s, 3)}
        told |= {f"{stage}_ms": took for stage, took in milliseconds().items()}
        told |= {"rss_bytes": rss_bytes(), "cpu_percent": round(100 * worked / max(took_s, 1e-3))}
        with suppress(Exception):  # a device that fell off the bus: the chunk is recorded, and the next one says so
            told |= _device(engine)
        return told


def _device(engine: Engine) -> dict[str, Any]:
    memory = engine.memory()
    if memory is None:
        return {}
    used = memory.total_bytes - memory.free_bytes
    told: dict[str, Any] = {
        "device_used_bytes": used,
        "device_total_bytes": memory.total_bytes,
        "device_used_percent": round(100 * used / max(1, memory.total_bytes), 1),
        "device_peak_bytes": memory.peak_bytes,
    }
    reading = read_device(engine.hardware.device_id)
    if reading is not None and reading.temperature_c is not None:
        told["device_celsius"] = reading.temperature_c
    if reading is not None and reading.load_ratio is not None:
        told["device_load_percent"] = round(100 * reading.load_ratio)
    return told


def tell_pairs(group: "Sequence[Looked | Outcome]", outcomes: Sequence[Outcome], *, desk: Desk) -> None:
    """A line for each pair at DEBUG, and one for each slow one; nothing is put together for lines that nobody wants."""
    each = logging.getLogger(__name__).isEnabledFor(logging.DEBUG)
    for one, outcome in zip(group, outcomes, strict=True):
        took_s = sum(outcome.stage_ms.values()) / 1000
        if took_s > desk.slow_pair_s:
            with about(pair=outcome.row):
                log.warning(SLOW, took_s=round(took_s, 3), limit_s=desk.slow_pair_s, **_pair(one, outcome))
        elif each:
            with about(pair=outcome.row):
                log.debug("pair ended", stage="postprocess", **_pair(one, outcome), **_counted(one, desk))


def _pair(one: "Looked | Outcome", outcome: Outcome) -> dict[str, Any]:
    result = outcome.result
    told: dict[str, Any] = {}
    if isinstance(result, Failure):
        told["failure"] = result.code
    else:
        scores = result.scores
        told["label"] = scores.label.value
        told |= {name: round(getattr(scores, name), 6) for name in ("p_yes", "p_no", "p_maybe")}
    if not isinstance(one, Outcome):
        picture = one.picture
        told |= {"width": picture.width, "height": picture.height, "mode": picture.mode}
        told |= {"bytes": picture.file_bytes, "format": picture.format}
    measured = {"decode": "preprocess_ms", "model": "inference_ms"}
    told |= {measured.get(name, f"{name}_ms"): round(took, 1) for name, took in outcome.stage_ms.items()}
    return told | {"sha256": outcome.image_sha256, "flags": outcome.flags, "cached": outcome.cached}


def _counted(one: "Looked | Outcome", desk: Desk) -> dict[str, Any]:
    """How many tokens the model reads of the texts, where it reads tokens."""
    token_ids = getattr(desk.engine, "token_ids", None)
    if token_ids is None or isinstance(one, Outcome) or one.question is None:
        return {}
    return {"tokens": len(token_ids(one.question)) - 1}
