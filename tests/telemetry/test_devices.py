"""What is read of devices: shown in logs and metrics, so it may be missing and must never stop the work."""

import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

from telemetry.devices import DeviceReading, driver_version, read_device, read_devices, reading, readings


@dataclass
class Memory:
    """As NVML's structure."""

    used: int
    total: int


@dataclass
class Rates:
    """As NVML's structure."""

    gpu: int


class StandInNvml:
    """Two devices and a MIG part; the second device has fallen off the bus, the part tells its memory alone."""

    NVML_TEMPERATURE_GPU = 0
    uuids: ClassVar[dict[object, str]] = {0: "GPU-aaaa", "part": "MIG-cccc"}

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index == 1:
            raise RuntimeError("GPU is lost")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != "MIG-cccc":
            raise RuntimeError("Not Found")
        return "part"

    def nvmlDeviceGetUUID(self, handle: object) -> str:
        return self.uuids[handle]

    def nvmlDeviceGetName(self, handle: object) -> bytes:
        return b"NVIDIA H200"

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Memory:
        return Memory(used=5, total=10)

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> Rates:
        if handle == "part":
            raise RuntimeError("Not Supported")
        return Rates(gpu=40)

    def nvmlDeviceGetTemperature(self, handle: object, sensor: int) -> int:
        if handle == "part":
            raise RuntimeError("Not Supported")
        return 61


DEVICE = DeviceReading(
    index=0,
    uuid="GPU-aaaa",
    name="NVIDIA H200",
    memory_used_bytes=5,
    memory_total_bytes=10,
    temperature_c=61,
    load_ratio=0.4,
)


def test_a_lost_device_hides_itself_alone() -> None:
    """A worker on the other device of this machine must keep its readings."""
    assert readings(StandInNvml()) == (DEVICE,)


def test_a_device_is_found_by_its_number_and_by_its_uuid_as_nvidia_and_torch_write_it() -> None:
    """Slots name devices as the operator did; torch leaves `GPU-` away."""
    assert [reading(StandInNvml(), name) for name in ("0", "GPU-aaaa", "aaaa")] == [DEVICE] * 3
    assert [reading(StandInNvml(), name) for name in ("1", "cpu", "GPU-bbbb", "MIG-dddd", "")] == [None] * 5


def test_a_part_of_a_device_tells_what_it_can() -> None:
    """MIG parts have memory of their own, but neither temperature nor load."""
    told = reading(StandInNvml(), "MIG-cccc")
    assert told is not None
    assert (told.memory_used_bytes, told.temperature_c, told.load_ratio) == (5, None, None)


def test_without_a_driver_there_are_no_devices_and_no_error() -> None:
    """Most machines that run tests, and every CPU worker; a machine that has one must answer in the same types."""
    devices = read_devices()
    assert all(device.memory_total_bytes is None or device.memory_total_bytes > 0 for device in devices)
    assert devices == () or driver_version()
    assert read_device("no such device") is None


def test_reading_devices_starts_no_cuda() -> None:
    """The main process forks children that use CUDA: it must never have imported torch."""
    code = "import sys, telemetry.devices as d; d.read_devices(); d.driver_version(); print('torch' in sys.modules)"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert seen.stdout.strip() == "False"
