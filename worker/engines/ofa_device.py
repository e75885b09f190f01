"""The device under the OFA engine: what it is, what memory it has, and what its errors mean."""

import platform
from typing import Any

import torch

from audit.errors import AuditError, DeviceTooSmall, EngineFault, OutOfDeviceMemory, PoisonedProcess
from worker.engines.base import DeviceMemory, Hardware

GB = 1e9
WORKING_BYTES = 500_000_000
"""What a pass of one pair needs beside the weights, amply: by count OFA-large takes 0.2 GB in bf16, 0.4 in fp32."""
NO_MEMORY = ("can't allocate memory", "CUDA out of memory", "CUDA error: out of memory", "_ALLOC_FAILED")
"""An allocation that failed, by whichever library: the process is well, unlike after other CUDA errors."""
BROKEN_DEVICE = ("CUDA", "cuDNN", "CUDNN", "CUBLAS", "device-side", "NVML")


def hardware_of(device: torch.device) -> Hardware:
    """Name, id, memory and the software that its speed depends on."""
    software = f"torch {torch.__version__}"
    if device.type != "cuda":
        return Hardware(name=platform.machine(), device_id="cpu", memory_bytes=0, software=software)
    properties = torch.cuda.get_device_properties(device)
    return Hardware(
        name=properties.name,
        device_id=str(getattr(properties, "uuid", properties.name)),
        memory_bytes=properties.total_memory,
        software=f"{software}, CUDA {torch.version.cuda}",
    )


def memory_of(device: torch.device, *, weights_bytes: int) -> DeviceMemory | None:
    """As it is now; None on CPU, where the kernel lends memory as long as it lasts."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return DeviceMemory(
        total_bytes=total,
        free_bytes=free,
        weights_bytes=weights_bytes,
        reserved_bytes=torch.cuda.memory_reserved(device),
        peak_bytes=torch.cuda.max_memory_reserved(device),
    )


def release(device: torch.device) -> None:
    """Give cached blocks back, and count the peak anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def bytes_of(model: Any, dtype: torch.dtype) -> int:
    """What the model's tensors take in that type; tied ones count once."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(
        tensor.numel() * (dtype.itemsize if tensor.is_floating_point() else tensor.element_size())
        for tensor in tensors.values()
    )


def check_room(weights_bytes: int, memory: DeviceMemory | None) -> None:
    """Raise DeviceTooSmall when the model and one pair do not fit what is free, before anything is copied."""
    if memory is None or weights_bytes + WORKING_BYTES <= memory.free_bytes:
        return
    raise DeviceTooSmall(
        "device_too_small",
        f"the model needs about {(weights_bytes + WORKING_BYTES) / GB:.1f} GB, and the device has "
        f"{memory.free_bytes / GB:.1f} of {memory.total_bytes / GB:.1f} GB free",
    )


def fault_of(error: RuntimeError) -> AuditError:
    """Our name for what torch raised; a CUDA error other than lack of memory leaves the process unusable."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError) or any(mark in text for mark in NO_MEMORY):
        return OutOfDeviceMemory("out_of_device_memory", text)
    if isinstance(error, torch.AcceleratorError) or any(mark in text for mark in BROKEN_DEVICE):
        return PoisonedProcess("device_error", text)
    return EngineFault("engine_failed", text)
