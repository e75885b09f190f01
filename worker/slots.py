"""Slots: which device each worker process sees.

A slot is a place in the pool (billiard numbers them, and a replacement takes its predecessor's number). The number
picks the device, and the device is put into the environment before torch is imported, so that the process sees that
one alone and calls it cuda:0.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from audit.errors import UsageError
from audit.settings import Settings
from worker.board_page import MOST_SLOTS
from worker.cores import cores_allowed

NVIDIA_DEVICES = Path("/proc/driver/nvidia/gpus")
SLOTS_A_GPU = 2
"""Two processes a device overlap each other's gaps: while one decodes, commits or reloads, the other computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A worker process's place: its number, its device (`cpu`, or an entry for CUDA_VISIBLE_DEVICES), its threads."""

    number: int
    device: str
    threads: int

    @property
    def torch_device(self) -> str:
        """What torch calls the device inside the process."""
        return "cpu" if self.device == "cpu" else "cuda:0"

    def environment(self) -> Mapping[str, str]:
        """Variables to set before torch is imported."""
        visible = "" if self.device == "cpu" else self.device
        # torch, OpenMP and tokenizers would each start a thread a core in every process otherwise.
        return {
            "CUDA_VISIBLE_DEVICES": visible,
            # Or CUDA would number the fastest device 0, and nvidia-smi another one.
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            # OpenMP's threads spin while they wait for each other. When another process has one of the cores they wait
            # for long: a pair of the shipped model took 1,500 ms with two spinning threads, 31 ms with two that sleep.
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",
        }

    def pin(self) -> None:
        """Make this process see the slot's device alone. Raises RuntimeError when torch is already imported."""
        if "torch" in sys.modules:
            raise RuntimeError("torch was imported before the device was pinned")
        os.environ.update(self.environment())


def plan_slots(settings: Settings, environ: Mapping[str, str], *, nvidia: Path = NVIDIA_DEVICES) -> tuple[Slot, ...]:
    """Every slot of this worker, devices in turn; raises UsageError when a device is not the operator's to use."""
    devices = _devices(settings.devices, environ, nvidia)
    per_device = settings.slots_per_device or (1 if devices == ["cpu"] else SLOTS_A_GPU)
    count = len(devices) * per_device
    if count > MOST_SLOTS:
        raise UsageError("bad_setting", f"{count} slots are more than one worker may have ({MOST_SLOTS})")
    threads = settings.torch_threads or max(1, cores_allowed() // count)
    return tuple(Slot(number=n, device=devices[n % len(devices)], threads=threads) for n in range(count))


def _devices(wanted: str, environ: Mapping[str, str], nvidia: Path) -> list[str]:
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    offered = None if visible is None else [entry.strip() for entry in visible.split(",") if entry.strip()]
    if offered is not None:
        offered = _until_nothing(offered)
    if wanted == "cpu":
        return ["cpu"]
    if wanted == "auto":
        if offered is not None:
            return offered or ["cpu"]
        # Listing /proc asks no CUDA: a parent that had initialised it could not fork children that use it.
        return [str(index) for index, _ in enumerate(sorted(nvidia.glob("*")))] or ["cpu"]
    chosen = [entry.strip() for entry in wanted.split(",") if entry.strip()]
    if not chosen or "cpu" in chosen or len(set(chosen)) != len(chosen):
        raise UsageError(
            "bad_setting", f"AUDIT_DEVICES={wanted!r} is not auto, cpu or a list of different CUDA devices"
        )
    for entry in chosen:
        if offered is not None and entry not in offered:
            raise UsageError("bad_setting", f"AUDIT_DEVICES names {entry}, which CUDA_VISIBLE_DEVICES does not offer")
    return chosen


def _until_nothing(offered: list[str]) -> list[str]:
    """As CUDA reads the list: -1 and NoDevFiles (Slurm) are no device, and nothing after them counts."""
    ends = [index for index, entry in enumerate(offered) if entry in ("-1", "NoDevFiles")]
    return offered[: ends[0]] if ends else offered
