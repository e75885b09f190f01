"""What NVIDIA's driver says of its devices, asked through NVML: no CUDA is started, and torch is not needed.

Nothing here raises: without a driver there are no devices, and what a device does not tell (temperature and load of a
MIG part, say) is None.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """One device as it is now. `uuid` is as `nvidia-smi -L` has it, `index` in the order of the PCI bus."""

    index: int
    uuid: str
    name: str
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_c: int | None
    load_ratio: float | None


def read_devices() -> tuple[DeviceReading, ...]:
    """Every device of this machine that the driver shows; MIG parts are not among them."""
    nvml = _nvml(os.getpid())
    return () if nvml is None else readings(nvml)


def read_device(name: str) -> DeviceReading | None:
    """The device of that UUID (with or without `GPU-`), or with that number in the order of the PCI bus.

    A MIG part is asked for by its own UUID, as CUDA_VISIBLE_DEVICES has it.
    """
    nvml = _nvml(os.getpid())
    return None if nvml is None else reading(nvml, name)


def driver_version() -> str | None:
    """NVIDIA's driver, such as `550.54.15`."""
    nvml = _nvml(os.getpid())
    return None if nvml is None else _told(lambda: _text(nvml.nvmlSystemGetDriverVersion()))


def readings(nvml: Any) -> tuple[DeviceReading, ...]:
    """Every device of this NVML (a started pynvml, or what stands in for it)."""
    return tuple(_read(nvml, index, handle) for index, handle in _handles(nvml))


def reading(nvml: Any, name: str) -> DeviceReading | None:
    """One device of this NVML, named as read_device() has it."""
    for index, handle in _handles(nvml):
        uuid = _told(lambda handle=handle: _text(nvml.nvmlDeviceGetUUID(handle)))  # type: ignore[misc]  # its default
        if name in (str(index), uuid, f"{uuid}".removeprefix("GPU-")):
            return _read(nvml, index, handle)
    handle = _told(lambda: nvml.nvmlDeviceGetHandleByUUID(name)) if name.startswith("MIG-") else None
    return None if handle is None else _read(nvml, -1, handle)


def _handles(nvml: Any) -> Iterator[tuple[int, Any]]:
    for index in range(_told(nvml.nvmlDeviceGetCount) or 0):
        with suppress(Exception):  # one that fell off the bus; the others are there
            yield index, nvml.nvmlDeviceGetHandleByIndex(index)


def _read(nvml: Any, index: int, handle: Any) -> DeviceReading:
    memory = _told(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    percent = _told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    celsius = _told(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
    return DeviceReading(
        index=index,
        uuid=_told(lambda: _text(nvml.nvmlDeviceGetUUID(handle))) or str(index),
        name=_told(lambda: _text(nvml.nvmlDeviceGetName(handle))) or "unknown",
        memory_used_bytes=None if memory is None else int(memory.used),
        memory_total_bytes=None if memory is None else int(memory.total),
        temperature_c=None if celsius is None else int(celsius),
        load_ratio=None if percent is None else percent / 100,
    )


@cache
def _nvml(_pid: int) -> Any | None:
    """NVML, started in this process; a child that was forked starts its own. None without a driver, and for good."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no driver, no library, no permission: no devices
        return None
    return pynvml


def _told(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except Exception:  # noqa: BLE001 - a question that this device, or this driver, does not answer
        return None


def _text(answer: str | bytes) -> str:
    return answer.decode(errors="replace") if isinstance(answer, bytes) else answer
