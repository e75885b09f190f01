"""What the search for a micro-batch found, kept for the next process: AUDIT_HOME/cache/micro_batch.json.

A replacement, a neighbour on the device and tomorrow's worker need not measure again. The file is a cache: whatever is
wrong with it, the size is measured anew.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from telemetry.logs import logger
from worker.device_lock import Flock
from worker.engines.base import Engine
from worker.engines.micro_batch import SIZES, Found

log = logger(__name__)
VERSION = 1
MAX_BYTES = 1_000_000
PATIENCE_S = 5.0


def key_of(engine: Engine, *, slots: int) -> str:
    """All that the best size depends on."""
    card, hardware = engine.card, engine.hardware
    parts = (hardware.name, f"{hardware.memory_bytes} bytes", f"{slots} slots", hardware.software)
    return " | ".join((*parts, card.engine, card.revision, card.precision))


def read_size(home: Path, key: str) -> int | None:
    """The size that was found for this key; None when nobody has measured it, or the file is damaged."""
    entry = _entries(_path(home)).get(key)
    size = entry.get("size") if isinstance(entry, dict) else None
    return size if isinstance(size, int) and not isinstance(size, bool) and size in SIZES else None


def write_found(home: Path, key: str, found: Found) -> None:
    """Keep it beside what others found; a full disk is only logged."""
    path = _path(home)
    entry = {
        "size": found.size,
        "pairs_a_s": {trial.size: trial.pairs_a_s and round(trial.pairs_a_s, 2) for trial in found.trials},
        "ended": found.ended,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Flock(path.with_suffix(".lock")).exclusive(patience_s=PATIENCE_S):
            told = {"version": VERSION, "found": {**_entries(path), key: entry}}
            fresh = path.with_suffix(f".{os.getpid()}.new")
            fresh.write_text(json.dumps(told, indent=1), encoding="utf-8")
            fresh.replace(path)
    except OSError as error:
        log.warning("micro-batch not kept", reason=error.strerror)


def _entries(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            return {}
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    found = told.get("found") if isinstance(told, dict) and told.get("version") == VERSION else None
    return found if isinstance(found, dict) else {}


def _path(home: Path) -> Path:
    return home / "cache" / "micro_batch.json"
