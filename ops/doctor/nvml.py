"""What NVIDIA's driver says of itself and of its devices, asked through NVML: no CUDA is started for it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from telemetry.devices import DeviceReading, readings


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """`cuda` is the newest CUDA that it serves: major, minor. `lost` are numbers of devices that do not answer.

    `processes` are the pids that compute on a device, by its number.
    """

    version: str
    cuda: tuple[int, int]
    devices: tuple[DeviceReading, ...]
    lost: tuple[int, ...]
    processes: Mapping[int, tuple[int, ...]]


class NvmlFault(Exception):
    """There is a driver, and it does not answer as it should."""

    def __init__(self, text: str, cure: str) -> None:
        super().__init__(text)
        self.cure = cure


def read_driver() -> Driver | None:
    """The driver and its devices; None where there is none. Raises NvmlFault."""
    import pynvml

    try:
        with _initialised(pynvml):
            number = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
            devices = readings(pynvml)
            answering = {device.index for device in devices}
            return Driver(
                version=str(pynvml.nvmlSystemGetDriverVersion()),
                cuda=(number // 1000, number % 1000 // 10),
                devices=devices,
                lost=tuple(sorted({*range(pynvml.nvmlDeviceGetCount())} - answering)),
                processes={index: _processes(pynvml, index) for index in sorted(answering)},
            )
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return None
    except pynvml.NVMLError as error:
        cure = "look at `nvidia-smi` and the kernel's log; after an update of the driver, reboot"
        raise NvmlFault(f"the driver does not answer ({error})", cure) from error


@contextmanager
def _initialised(pynvml: Any) -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _processes(pynvml: Any, index: int) -> tuple[int, ...]:
    try:
        told = pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(index))
    except pynvml.NVMLError:  # a device that is shared by MIG does not tell everybody
        return ()
    return tuple(int(process.pid) for process in told)
