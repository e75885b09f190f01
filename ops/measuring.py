"""Measuring a machine: one process a slot, each loading and judging as a pool process does, all at the same time."""

import json
import os
import platform
import queue
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from audit.baseline import Baseline, percentiles, rank
from audit.errors import AuditError, Permanent, Unavailable
from audit.pair import Pair
from audit.settings import Settings
from ops.children import python_command, python_environment
from ops.text import counted, iso, one_line
from worker.devices import check_devices
from worker.slots import Slot, plan_slots

DRAWN_AT_MOST = 320
WARM_UP = 4
"""Micro-batches before the measured ones: the first pairs of a process meet cold caches, once in its hours of work."""
LOOK_S = 300.0
"""Beyond the limits: hashing gigabytes of weights from a slow disk, a search for the micro-batch."""
END_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What to judge: pairs in their order, from the beginning again when they are used up, and where they are from."""

    pairs: Sequence[Pair]
    image_root: str
    source: str
    most: int
    seconds: float


@dataclass(slots=True, kw_only=True)
class _Side:
    """One process."""

    slot: Slot
    process: "subprocess.Popen[str]"
    ready: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    judged: int = 0


class MeasuringFailed(AuditError):
    """A process could not load or judge; the exit status is its own."""

    exit_status: ClassVar[int] = 1

    def __init__(self, told: Mapping[str, Any]) -> None:
        super().__init__(str(told["code"]), str(told["detail"]))
        self.exit_status = int(told["exit_status"])  # type: ignore[misc]  # of this one error, not of the class


def measure(asked: Asked, settings: Settings, *, show: Callable[[str], None]) -> Baseline:
    """Load and judge on every slot that a worker of these settings would have; `show` gets lines of progress.

    Raises UsageError, ModelRefused's and EngineFault's likes as MeasuringFailed, Unavailable; Permanent when no pair
    could be judged at all.
    """
    slots = plan_slots(settings, os.environ)
    check_devices(slots, os.environ)
    with tempfile.TemporaryDirectory(prefix="caption-audit-") as folder, _sides(asked, slots, Path(folder)) as sides:
        told: queue.Queue[tuple[_Side, dict[str, Any] | None]] = queue.Queue()
        for side in sides:
            threading.Thread(target=_read, args=(side, told), daemon=True).start()
        show(f"loading {settings.model_name} on {counted(len(slots), 'slot')}")
        _until(sides, told, "ready", time.monotonic() + settings.canary_limit_s + LOOK_S)
        for side in sides:
            with suppress(BrokenPipeError):  # it is dead, which is told below
                print("go", file=side.process.stdin, flush=True)
        show(f"judging {asked.source} for at most {asked.seconds:g} s")
        give_up_at = time.monotonic() + asked.seconds + settings.pair_limit_s * max(settings.micro_batch, 1) + LOOK_S
        _until(sides, told, "result", give_up_at, lambda: show(_so_far(sides)))
    return _summed(asked, settings, sides)


@contextmanager
def _sides(asked: Asked, slots: Sequence[Slot], folder: Path) -> Iterator[list[_Side]]:
    """A process a slot, all ended at the end."""
    sides: list[_Side] = []
    try:
        for slot in slots:
            request = folder / f"{slot.number}.json"
            request.write_text(json.dumps(_request(asked, slot, len(slots))))
            process = subprocess.Popen(
                python_command("worker.measuring", str(request)),
                env=python_environment({}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            sides.append(_Side(slot=slot, process=process))
        yield sides
    finally:
        for side in sides:
            with suppress(ProcessLookupError):
                side.process.send_signal(signal.SIGKILL)
        for side in sides:
            with suppress(subprocess.TimeoutExpired):  # one that hangs in the driver is left to it
                side.process.wait(timeout=END_S)


def _request(asked: Asked, slot: Slot, slots: int) -> dict[str, Any]:
    return {
        "slot": asdict(slot),
        "pairs": [{**asdict(pair), "extra": None} for pair in asked.pairs],
        "first": slot.number * len(asked.pairs) // slots,
        "most": max(1, asked.most // slots),
        "seconds": asked.seconds,
        "warm_up": WARM_UP,
        "image_root": asked.image_root,
    }


def _read(side: _Side, told: "queue.Queue[tuple[_Side, dict[str, Any] | None]]") -> None:
    for line in side.process.stdout or ():
        with suppress(ValueError):  # what a library prints is not for us
            told.put((side, json.loads(line)))
    told.put((side, None))


def _until(
    sides: Sequence[_Side],
    told: "queue.Queue[tuple[_Side, dict[str, Any] | None]]",
    kind: str,
    give_up_at: float,
    progressed: Callable[[], None] = lambda: None,
) -> None:
    """Take what the processes tell until each has told `kind`."""
    while not all(getattr(side, kind) for side in sides):
        try:
            side, line = told.get(timeout=max(0.01, give_up_at - time.monotonic()))
        except queue.Empty:
            raise Unavailable("measuring_failed", f"a process did not get to `{kind}` in time") from None
        if line is None:
            status = side.process.wait()
            raise Unavailable("measuring_failed", f"the process of slot {side.slot.number} ended with status {status}")
        if line["kind"] == "error":
            raise MeasuringFailed(line)
        if line["kind"] == "progress":
            side.judged = int(line["judged"])
            progressed()
        else:
            setattr(side, line["kind"], line)


def _so_far(sides: Sequence[_Side]) -> str:
    return f"{counted(sum(side.judged for side in sides), 'pair')} judged"


def _summed(asked: Asked, settings: Settings, sides: Sequence[_Side]) -> Baseline:
    """All slots' times together; raises Permanent (`nothing_judged`)."""
    times: dict[str, list[float]] = {}
    failures: Counter[str] = Counter()
    for side in sides:
        failures.update(side.result["failures"])
        for stage, seconds in side.result["stages"].items():
            times.setdefault(stage, []).extend(seconds)
    verdicts = sum(side.result["verdicts"] for side in sides)
    codes = ", ".join(f"{one_line(code)} {number:,}" for code, number in failures.most_common(5))
    if not verdicts:
        cure = "give --image-root, or other pairs"
        raise Permanent("nothing_judged", f"no pair of {asked.source} could be judged ({codes}): {cure}")
    ready = sides[0].ready
    samples = {stage: len(measured) for stage, measured in times.items()}
    return Baseline(
        made_at=str(iso(time.time())),
        machine=_machine(settings, sides),
        model=settings.model_name,
        revision=ready["revision"],
        precision=ready["precision"],
        engine=ready["engine"],
        load_s=max(side.ready["load_s"] for side in sides),
        stages={stage: percentiles(measured) for stage, measured in times.items()},
        samples=samples,
        pairs=verdicts,
        source=asked.source,
        pairs_per_second=verdicts / max(side.result["seconds"] for side in sides),
        peak_rss_bytes=max(side.result["rss"] for side in sides),
        peak_device_bytes=_device_bytes(sides),
        notes=_notes(samples, codes),
    )


def _notes(samples: Mapping[str, int], codes: str) -> list[str]:
    notes = [f"pairs that could not be judged are in no figure: {codes}"] if codes else []
    for stage, number in samples.items():
        largest = [f"p{percent}" for percent in (95, 99) if rank(percent, number) == number]
        if largest:
            verb = "is" if len(largest) == 1 else "are"
            notes.append(f"{stage}: {' and '.join(largest)} {verb} the largest of {counted(number, 'time')}")
    return notes


def _device_bytes(sides: Sequence[_Side]) -> int | None:
    held: Counter[str] = Counter()
    for side in sides:
        if side.result["device"]:
            held[side.slot.device] += int(side.result["device"])
    return max(held.values(), default=None)


def _machine(settings: Settings, sides: Sequence[_Side]) -> dict[str, Any]:
    import psutil

    ready = sides[0].ready
    return {
        "host": socket.gethostname(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "devices": sorted({side.slot.device for side in sides}),
        "device_name": ready["device_name"],
        "software": ready["software"],
        "slots": len(sides),
        "threads": sides[0].slot.threads,
        "decode_threads": settings.decode_threads,
        "micro_batch": ready["micro_batch"],
    }


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
