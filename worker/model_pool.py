"""The model of a worker process: found and hashed by the parent, loaded, pinned and proved by each child.

The parent never imports torch: a parent that had started CUDA or torch's threads could not fork children that use them.
"""

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from audit.models import model_directory
from audit.settings import Settings
from audit.verdict import Scores
from db.lease import Provenance
from worker.engines.base import Engine
from worker.judging import Desk
from worker.slots import Slot
from worker.telemetry import logger

if TYPE_CHECKING:
    from worker.engines.model_files import ModelFiles

log = logger(__name__)
GPU_MICRO_BATCH = 32
LOAD_TRIES = 3
"""Failed loads of one slot in a row after which the worker leaves with exit status 69."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What the parent found out about the model; inherited by every child. `files` is None for the stub engine."""

    name: str
    files: "ModelFiles | None"


def find_model(settings: Settings) -> Model:
    """Check and hash the model's files, once, in the parent. Raises ModelRefused naming the file and the reason."""
    if settings.engine == "stub":
        return Model(name=settings.model_name, files=None)
    from worker.engines.model_files import inspect_model

    return Model(name=settings.model_name, files=inspect_model(model_directory(settings), name=settings.model_name))


def load_engine(model: Model, settings: Settings, slot: Slot) -> Engine:
    """Load in this process, on the slot's device, and judge the canary pair. Raises ModelRefused or EngineFault."""
    from worker.engines.canary import prove

    began = time.monotonic()
    slot.pin()
    seen = {"visible": os.environ["CUDA_VISIBLE_DEVICES"], "torch_imported": "torch" in sys.modules}
    log.info("slot pinned", slot=slot.number, pid=os.getpid(), **seen)
    if model.files is None:
        from worker.engines.stub import load_stub

        engine: Engine = load_stub(load_s=settings.stub_load_s, pair_s=settings.stub_pair_s)
    else:
        from worker.engines.model_files import check_unchanged
        from worker.engines.ofa import load_ofa

        check_unchanged(model.files)
        set_threads(slot.threads)
        engine = load_ofa(model.files, device=slot.torch_device, precision=precision_of(settings, slot))
    prove(engine)
    took_s = round(time.monotonic() - began, 2)
    card = engine.card
    log.info(
        "model proved",
        slot=slot.number,
        pid=os.getpid(),
        device=slot.device,
        engine=card.engine,
        model=model.name,
        took_s=took_s,
    )
    return engine


def precision_of(settings: Settings, slot: Slot) -> Literal["fp32", "bf16"]:
    """bfloat16 on CUDA, float32 on CPU, unless the operator says otherwise."""
    if settings.precision != "auto":
        return settings.precision
    return "fp32" if slot.device == "cpu" else "bf16"


def provenance_of(engine: Engine, model: Model, *, worker: str, slot: Slot) -> Provenance:
    """What every outcome of this process says about how it came to be."""
    return Provenance(
        worker=worker,
        model=model.name,
        model_revision=engine.card.revision,
        engine=engine.card.engine,
        precision=engine.card.precision,
        device=slot.device if slot.device == "cpu" else f"cuda:{slot.device}",
    )


def make_desk(engine: Engine, settings: Settings, slot: Slot, remember: Callable[[str], Scores | None]) -> Desk:
    """The engine with its decode threads, as big a micro-batch as the device likes, and the cache."""
    from worker.engines.canary import prove

    # On CPU a batch only costs memory and cache misses (measured: batch 1 is best); a GPU needs many pairs at once.
    micro_batch = settings.micro_batch or (1 if slot.device == "cpu" else GPU_MICRO_BATCH)
    return Desk(
        engine=engine,
        prove=prove,
        remember=remember,
        max_caption_chars=settings.max_caption_chars,
        micro_batch=micro_batch,
        decoders=ThreadPoolExecutor(max_workers=settings.decode_threads, thread_name_prefix="decode"),
        decode_ahead=micro_batch + 2 * settings.decode_threads,
    )


def set_threads(threads: int) -> None:
    """Give torch in this process its share of the cores."""
    import torch

    torch.set_num_threads(threads)
