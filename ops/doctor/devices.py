"""The devices of the slots: whether they are there, compute, and have room; and which programs use them."""

from collections.abc import Iterator, Mapping, Sequence

from audit.errors import Unavailable, UsageError
from audit.settings import Settings
from ops.doctor.child import PROBE, told_by
from ops.doctor.lines import Line, ok, warning, wrong
from ops.doctor.nvml import NvmlFault, read_driver
from ops.doctor.processes import describe, is_ours
from telemetry.devices import DeviceReading
from worker.slots import Slot, plan_slots

GB = 1e9
LOW_FREE = 0.1
"""Share of a GPU's memory below which others leave little room for a micro-batch."""


def cuda_devices(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """The CUDA devices that slots would use; none where the settings are refused, which device_lines tells."""
    try:
        return _cuda(plan_slots(settings, environ))
    except UsageError:
        return []


def device_lines(settings: Settings, environ: Mapping[str, str], *, limit_s: float) -> Iterator[Line]:
    """What the slots are to run on, each GPU of this machine, and whether those that are wanted compute."""
    try:
        slots = plan_slots(settings, environ)
    except UsageError as error:
        cure = "mend AUDIT_DEVICES, AUDIT_SLOTS_PER_DEVICE or CUDA_VISIBLE_DEVICES"
        yield wrong("slots", error.detail, means="a worker would not start", cure=cure)
        return
    wanted = _cuda(slots)
    on = ", ".join(wanted) if wanted else "the CPU"
    yield ok("slots", f"{len(slots)} on {on}, {slots[0].threads} threads each")
    try:
        driver = read_driver()
    except NvmlFault as error:
        if wanted:
            yield wrong("GPUs", str(error), means=f"slots are to use {on}", cure=error.cure)
        return
    if driver is not None:
        for device in driver.devices:
            users = driver.processes[device.index]
            yield _room(device, users, is_wanted=any(_is_called(device, entry) for entry in wanted))
        for index in driver.lost:
            means, cure = "it has fallen off the bus, or is broken", "look at the kernel's log (`dmesg`, Xid); reboot"
            state = wrong if str(index) in wanted else warning
            yield state(f"GPU {index}", "does not answer", means=means, cure=cure)
    for entry in wanted:
        yield _computes(entry, driver.devices if driver else (), environ, limit_s=limit_s)


def _room(device: DeviceReading, pids: Sequence[int], *, is_wanted: bool) -> Line:
    used, total = device.memory_used_bytes or 0, device.memory_total_bytes or 0
    users = [describe(pid) for pid in pids]
    by = f" by {', '.join(users[:4])}{' ...' if len(users) > 4 else ''}" if users else ""
    name, found = f"GPU {device.index}", f"{device.name}, {used / GB:.1f} of {total / GB:.1f} GB used{by}"
    # Where no pid is seen, it is a process of another container.
    foreign = not pids or any(not is_ours(pid) for pid in pids)
    if is_wanted and foreign and total - used < LOW_FREE * total:
        means = "other programs leave little of its memory: micro-batches are small, or a model does not fit"
        return warning(name, found, means=means, cure="end them, or name other devices in AUDIT_DEVICES")
    return ok(name, found, means="" if is_wanted else "no slot uses it")


def _computes(entry: str, found: Sequence[DeviceReading], environ: Mapping[str, str], *, limit_s: float) -> Line:
    """A sum on the device, as a worker does before it starts."""
    name, means = f"device {entry}", "a worker would not start"
    cure = "look at `nvidia-smi`, name others in AUDIT_DEVICES, or set AUDIT_DEVICES=cpu"
    if not entry.startswith("MIG-") and not any(_is_called(device, entry) for device in found):
        listed = ", ".join(f"{device.index} ({device.name})" for device in found) or "none"
        return wrong(name, f"there is no such GPU; there are: {listed}", means=means, cure=cure)
    visible = {"CUDA_VISIBLE_DEVICES": entry, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    try:
        told = told_by(PROBE, environ={**environ, **visible}, limit_s=limit_s)
    except Unavailable as error:
        return wrong(name, f"torch cannot look at it: {error.detail}", means=means, cure=cure)
    if told["problem"]:
        reason = told["detail"] or "torch has no CUDA"
        return wrong(name, f"does not compute: {reason}", means=means, cure=cure)
    return ok(name, f"computes ({told['detail']})")


def _is_called(device: DeviceReading, entry: str) -> bool:
    """Whether an entry of CUDA_VISIBLE_DEVICES means this one: its number, or the beginning of its UUID."""
    return entry == str(device.index) or (entry.startswith("GPU-") and device.uuid.startswith(entry))


def _cuda(slots: Sequence[Slot]) -> list[str]:
    return list(dict.fromkeys(slot.device for slot in slots if slot.device != "cpu"))
