"""What a worker process says of itself when its model is proved: with what software, on what device, which model."""

import platform
import sys
from typing import Any

from telemetry.devices import driver_version, read_device
from worker.engines.base import Engine
from worker.memory import rss_bytes
from worker.model_pool import Model
from worker.slots import Slot


def start_facts(engine: Engine, model: Model, slot: Slot) -> dict[str, Any]:
    """Fields of its log line; what does not apply (a driver on a CPU, checksums of the stub) is left out."""
    card, hardware, files = engine.card, engine.hardware, model.files
    torch = sys.modules.get("torch")  # which the stub does without
    told = {
        "engine": card.engine,
        "model": model.name,
        "revision": card.revision,
        "sha256": files and files.sha256.get(files.weights.name),
        "parameters": card.parameters or None,
        "precision": card.precision,
        "python": platform.python_version(),
        "torch": torch and torch.__version__,
        "rss_bytes": rss_bytes(),
        "device": slot.device,
    }
    if slot.device != "cpu":
        reading = read_device(hardware.device_id)
        told |= {
            "cuda": torch and torch.version.cuda,
            "driver": driver_version(),
            "device_name": hardware.name,
            "device_id": hardware.device_id,
            "device_total_bytes": hardware.memory_bytes or None,
            "device_used_bytes": reading and reading.memory_used_bytes,
        }
    return {name: value for name, value in told.items() if value is not None}
