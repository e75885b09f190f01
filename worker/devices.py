"""Whether the slots' devices can be used at all: asked before any child, so that a refusal is one line, at once."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from audit.errors import Unavailable, UsageError
from telemetry.logs import logger
from worker.slots import Slot

log = logger(__name__)
LIMIT_S = 120.0
"""Importing torch and starting CUDA take seconds; on a cold disk, a minute."""
END_S = 5.0
CURE = "set AUDIT_DEVICES=cpu"


def check_devices(slots: Sequence[Slot], environ: Mapping[str, str]) -> None:
    """Compute a sum on each CUDA device of these slots, each in a throwaway process of its own, all at once.

    Raises UsageError (no CUDA in torch, no such device) or Unavailable (no driver, or the device does not answer).
    """
    first = {slot.device: slot for slot in slots if slot.device != "cpu"}
    probes = {device: _start(slot, environ) for device, slot in first.items()}
    try:
        for device, process in probes.items():
            _judge(device, _answer(device, process))
    finally:
        for process in probes.values():
            process.kill()
        for process in probes.values():
            with suppress(subprocess.TimeoutExpired):  # one that hangs in the driver is left to it
                process.communicate(timeout=END_S)


def _start(slot: Slot, environ: Mapping[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "worker.engines.device_probe"],
        env={**environ, **slot.environment(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _answer(device: str, process: "subprocess.Popen[str]") -> Mapping[str, str]:
    try:
        output, complaints = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        detail = f"device {device} did not answer for {LIMIT_S:.0f} s: look at `nvidia-smi` and the kernel's log"
        raise Unavailable("device_unavailable", detail) from None
    try:
        told: Mapping[str, str] = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        why = (complaints.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        raise Unavailable("device_unavailable", f"torch could not look at device {device}: {why}") from None
    return told


def _judge(device: str, told: Mapping[str, str]) -> None:
    match told["problem"]:
        case "no_cuda":
            raise UsageError(
                "no_cuda",
                f"device {device} needs CUDA, and torch {told['torch']} is a build without it: install a CUDA build of "
                f"torch, or {CURE}",
            )
        case "no_device":
            raise UsageError(
                "no_device",
                f"{device} is no CUDA device of this machine: `nvidia-smi -L` lists them; name others in "
                f"AUDIT_DEVICES, or {CURE}",
            )
        case "no_driver":
            raise Unavailable(
                "device_unavailable",
                f"device {device} does not compute ({told['detail']}): install or update NVIDIA's driver, free the "
                f"device, or {CURE}",
            )
        case _:
            log.info("device found", device=device, name=told["detail"], torch=told["torch"])
