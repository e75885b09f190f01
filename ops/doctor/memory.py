"""Memory of this machine or container, and what the slots will want of it."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from audit.errors import ModelRefused, UsageError
from audit.models import WEIGHTS, model_directory
from audit.settings import Settings
from ops.doctor.lines import Line, ok, warning, wrong
from ops.text import counted
from worker.seen import workers_seen
from worker.slots import plan_slots

GB = 1e9
BESIDE_WEIGHTS = 800_000_000
"""Python, torch and one pair's pass: OFA-large, 1.9 GB in float32, takes 2.1 to 2.5 GB a process."""
GROUPS = Path("/sys/fs/cgroup")


def memory_lines(settings: Settings, environ: Mapping[str, str], *, now: float) -> Iterator[Line]:
    """Whether the slots fit: into the machine, into the container's limit, and beside what runs just now."""
    import psutil

    try:
        slots = len(plan_slots(settings, environ))
    except UsageError:
        return  # the line about slots says so
    memory = psutil.virtual_memory()
    limit = memory_limit()
    total = min(memory.total, limit or memory.total)
    needed = slots * (BESIDE_WEIGHTS + _weights_bytes(settings))
    whole = "of this container" if total < memory.total else "of this machine"
    wants = f"{counted(slots, 'slot')} may take {needed / GB:.1f} GB"
    found = f"{total / GB:.1f} GB {whole}, {memory.available / GB:.1f} GB free; {wants}"
    cure = "set AUDIT_SLOTS_PER_DEVICE lower, or give it more memory"
    if needed > total:
        yield wrong("memory", found, means="the kernel will kill worker processes", cure=cure)
    elif needed > memory.available and not any(workers_seen(settings.home, now=now)):
        yield warning("memory", found, means="other programs hold what the slots will want", cure=cure)
    else:
        yield ok("memory", found)


def memory_limit(groups: Path = GROUPS, mine: Path = Path("/proc/self/cgroup")) -> int | None:
    """The lowest limit of this process's control groups, in bytes, versions 2 and 1; None without one."""
    try:
        lines = mine.read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root, name = (groups / "memory", "memory.limit_in_bytes") if controllers else (groups, "memory.max")
            found += [_limit(folder / name) for folder in _and_above(root, path)]
    return min((limit for limit in found if limit is not None), default=None)


def _and_above(root: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it; inside of a container the root is often the group itself."""
    folder = root / path.lstrip("/")
    while folder != root:
        yield folder
        folder = folder.parent
    yield root


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # `max` is none


def _weights_bytes(settings: Settings) -> int:
    """What the weights take in float32, as a process on the CPU holds them; 0 where that is not known."""
    from worker.engines.weights_file import inspect_weights

    if settings.engine == "stub":
        return 0
    try:
        directory = model_directory(settings)
        path = next(directory / name for name in WEIGHTS if (directory / name).is_file())
        shapes = inspect_weights(path).shapes
        return path.stat().st_size if shapes is None else 4 * sum(map(math.prod, shapes.values()))
    except (ModelRefused, OSError, StopIteration):
        return 0
