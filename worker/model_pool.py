"""The model of a worker process: found and hashed by the parent, loaded, pinned and proved by each child.

The parent never imports torch: a parent that had started CUDA or torch's threads could not fork children that use them.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from audit.errors import DeviceTooSmall, OutOfDeviceMemory
from audit.models import model_directory
from audit.settings import Settings
from audit.verdict import Scores
from db.lease import Provenance
from telemetry.logs import logger
from telemetry.metrics import meters
from telemetry.stages import Threads
from worker.batching import MicroBatch
from worker.desk import Desk
from worker.device_lock import DeviceLock, lock_folder
from worker.engines.base import Engine
from worker.engines.micro_batch import LIMIT_S, search
from worker.micro_batch_file import key_of, read_size, write_found
from worker.slots import SLOTS_A_GPU, Slot

if TYPE_CHECKING:
    from worker.engines.canary import Known
    from worker.engines.model_files import ModelFiles

log = logger(__name__)
SEARCH_PATIENCE_S = 3 * LIMIT_S
"""Longest that a process waits while another one measures on the same device; then it measures by itself."""
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


def load_engine(model: Model, settings: Settings, slot: Slot) -> "tuple[Engine, tuple[Known, ...]]":
    """Load in this process, on the slot's device, and judge the canary pair. Raises ModelRefused or EngineFault.

    Returns the known questions, too, with the answers that it gave.

    DeviceTooSmall, an EngineFault, says that trying again is no use.
    """
    from worker.engines.canary import prove

    began = time.monotonic()
    slot.pin()
    seen = {"visible": os.environ["CUDA_VISIBLE_DEVICES"], "torch_imported": "torch" in sys.modules}
    log.info("slot pinned", slot=slot.number, pid=os.getpid(), **seen)
    if model.files is None:
        from worker.engines.stub import load_stub, wrong_when

        engine: Engine = load_stub(
            load_s=settings.stub_load_s,
            call_s=settings.stub_call_s,
            pair_s=settings.stub_pair_s,
            device_pairs=settings.stub_device_pairs,
            device=slot.device,
            sick=slot.number == settings.stub_sick_slot,
            wrong=wrong_when(
                after_s=settings.stub_wrong_after_s, file=settings.stub_wrong_file, slot=slot.number, loads_at=began
            ),
        )
    else:
        from worker.engines.model_files import check_unchanged
        from worker.engines.ofa import load_ofa

        check_unchanged(model.files)
        set_threads(slot.threads)
        with _fitting(slot):
            engine = load_ofa(model.files, device=slot.torch_device, precision=precision_of(settings, slot))
    with _fitting(slot):
        known = prove(engine)
    meters().model_load_seconds.observe(time.monotonic() - began)
    return engine, known


def cpu_twin(model: Model, settings: Settings, slot: Slot, engine: Engine) -> Engine | None:
    """The same model on the CPU, in the same precision, for what has no room on the GPU; None where nobody wants it.

    Loaded at once: in the middle of a chunk it would take longer than a lease.
    """
    if not settings.cpu_fallback or slot.device == "cpu":
        return None
    if model.files is None:
        from worker.engines.stub import StubEngine

        return StubEngine(pair_s=settings.stub_pair_s, boundless=True)
    from worker.engines.ofa import load_ofa

    set_threads(slot.threads)
    precision: Literal["fp32", "bf16"] = "bf16" if engine.card.precision == "bf16" else "fp32"
    log.info("model loaded on the CPU too", slot=slot.number, precision=precision)
    return load_ofa(model.files, device="cpu", precision=precision)


def prove_again(engine: Engine, *, size: int) -> None:
    """Judge all of the canary's questions once more, and a pass of as many as this process works with.

    Raises EngineFault, as a load that failed.
    """
    from worker.engines.canary import prove, prove_pass

    prove(engine)
    prove_pass(engine, size=size)


def precision_of(settings: Settings, slot: Slot) -> Literal["fp32", "bf16"]:
    """bfloat16 on CUDA (where the device computes in it), float32 on CPU, unless the operator says otherwise."""
    if settings.precision != "auto":
        return settings.precision
    if slot.device == "cpu":
        return "fp32"
    import torch

    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    log.warning("bf16 not supported", slot=slot.number, device=slot.device, instead="fp32")
    return "fp32"


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


def make_desk(
    engine: Engine,
    settings: Settings,
    slot: Slot,
    remember: Callable[[str], Scores | None],
    *,
    on_cpu: Engine | None = None,
) -> Desk:
    """The engine with its decode threads, as big a micro-batch as the device likes, and the cache.

    May measure for some seconds. Raises DeviceTooSmall when not even one pair fits beside the model.
    """
    from worker.engines.canary import prove

    lock = None if slot.device == "cpu" else DeviceLock(lock_folder(settings.home), engine.hardware.device_id)
    with _fitting(slot):
        micro_batch = _micro_batch(engine, settings, slot, lock)
    return Desk(
        engine=engine,
        prove=prove,
        remember=remember,
        max_caption_chars=settings.max_caption_chars,
        micro_batch=MicroBatch(micro_batch),
        device=lock,
        decoders=Threads(max_workers=settings.decode_threads, thread_name_prefix="decode"),
        decode_ahead=micro_batch + 2 * settings.decode_threads,
        pair_limit_s=settings.pair_limit_s,
        slow_pair_s=settings.slow_pair_s or math.inf,
        on_cpu=on_cpu,
    )


def _micro_batch(engine: Engine, settings: Settings, slot: Slot, lock: DeviceLock | None) -> int:
    """What the operator says; one on CPU; else what was measured here before, or is measured now."""
    if settings.micro_batch:
        return settings.micro_batch
    if lock is None:
        return 1  # on CPU a batch only costs memory and cache misses (measured: batch 1 is best)
    slots = settings.slots_per_device or SLOTS_A_GPU
    key = key_of(engine, slots=slots)
    known = read_size(settings.home, key)
    if known is not None:
        return known
    with lock.searching(patience_s=SEARCH_PATIENCE_S):
        known = read_size(settings.home, key)  # a neighbour may have measured meanwhile
        if known is not None:
            return known
        found = search(engine, slots=slots)
        write_found(settings.home, key, found)
    tried = {trial.size: trial.pairs_a_s and round(trial.pairs_a_s, 1) for trial in found.trials}
    log.info("micro-batch measured", slot=slot.number, chosen=found.size, pairs_a_s=tried, ended=found.ended)
    return found.size


@contextmanager
def _fitting(slot: Slot) -> Iterator[None]:
    """Out of memory before any pair is judged means that the model does not fit: said in one line, with the cure."""
    try:
        yield
    except (DeviceTooSmall, OutOfDeviceMemory) as error:
        raise DeviceTooSmall(
            "device_too_small",
            f"the model does not fit device {slot.device}: {error.detail}. Free the device, set "
            "AUDIT_SLOTS_PER_DEVICE=1 or AUDIT_PRECISION=bf16, or take a smaller model",
        ) from None


def set_threads(threads: int) -> None:
    """Give torch in this process its share of the cores."""
    import torch

    torch.set_num_threads(threads)
