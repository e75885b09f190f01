"""The demo: drawn pictures with known labels go the whole way, and what came out is shown beside what is known."""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit.settings import Settings, read_settings
from ops.hints import command as typed_command
from ops.hints import home_prefix, relative, typed
from ops.local import LocalSystem, Stopping, local_system
from ops.show import add_row, counts_line, print_table
from ops.tending import POLL_S
from ops.text import duration
from ops.watching import follow

if TYPE_CHECKING:
    from rich.table import Table

    from db.engine import Database
    from db.queries import OutcomeRow, Progress
    from producer import Handle

NAME = "demo samples"
PAIRS = 320
FLAGGED_SHOWN = 15
# The cache would answer a second run without the model; small chunks keep the bar moving.
OVERRIDES = {"AUDIT_MODEL": "demo", "AUDIT_CACHE": "false", "AUDIT_CHUNK_PAIRS": "32"}
IGNORED = ("DATABASE_URL", "REDIS_URL", "AUDIT_DATABASE_PASSWORD", "AUDIT_REDIS_PASSWORD")
"""The demo is self-contained: it must not write samples into somebody's real ledger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Verdicts held against what is known: drawn pairs have a known label, broken ones have to fail."""

    judged: int
    right: int
    known_no: int
    known_no_flagged: int
    flagged: int
    unexpected: tuple[str, ...]  # ids that failed though they are fine, or got a verdict though they are broken


def run_demo(*, pairs: int = PAIRS) -> int:
    """The whole demo; returns the exit status: 0 when exactly the broken samples failed."""
    started = time.monotonic()
    settings = _settings()
    with local_system(settings, "demo", show=_say) as (system, stopping):
        _say("drawing the samples while the worker loads its model")
        manifest = _samples(settings.home / "samples", pairs)
        if not _wait_until_ready(system, stopping):
            return 130
        ready_s = time.monotonic() - started
        with _submitted(settings, manifest) as handle:
            try:
                seen = follow(
                    *(handle.database, handle.batch, settings),
                    poll_s=0.2,
                    meanwhile=lambda: _look(system, stopping),
                )
            except KeyboardInterrupt:
                _say(f"stopping; this begins anew: {typed('demo', settings)}")
                return 130
            status = _report(settings, handle.database, seen, ready_s=ready_s)
            _say("\nstopping Redis and the worker")
            return status


def accuracy(rows: "Sequence[OutcomeRow]") -> Accuracy:
    """Compare outcomes with the samples' known_label and axis columns."""
    verdicts = [row for row in rows if row.label is not None]
    known = [row for row in verdicts if row.extra.get("known_label")]
    known_no = [row for row in known if row.extra["known_label"] == "No"]
    return Accuracy(
        judged=len(known),
        right=sum(row.label == row.extra["known_label"] for row in known),
        known_no=len(known_no),
        known_no_flagged=sum(row.flagged for row in known_no),
        flagged=sum(row.flagged for row in verdicts),
        unexpected=tuple(row.id for row in rows if (row.label is None) != (row.extra.get("axis") == "broken")),
    )


def _settings() -> Settings:
    """Change the environment of this process, for its worker as well, and read it."""
    for name in IGNORED:
        if os.environ.pop(name, ""):
            _say(f"the demo ignores {name}: it uses a ledger and a Redis of its own under AUDIT_HOME")
    os.environ.update(OVERRIDES)
    # The small model needs no GPU, and a first try must not fail for a driver; AUDIT_DEVICES=auto takes one.
    os.environ.setdefault("AUDIT_DEVICES", "cpu")
    return read_settings()


def _samples(folder: Path, pairs: int) -> Path:
    from demo.samples import write_samples

    return write_samples(folder, count=pairs)


def _wait_until_ready(system: LocalSystem, stopping: Stopping) -> bool:
    while not system.tend():
        if stopping.asked:
            return False
        time.sleep(POLL_S)
    return True


def _look(system: LocalSystem, stopping: Stopping) -> None:
    if stopping.asked:
        raise KeyboardInterrupt
    system.tend()


def _submitted(settings: Settings, manifest: Path) -> "Handle":
    """The samples as a new batch, also when they were submitted before; what an earlier demo left is cancelled."""
    from producer import submit

    handle = submit(manifest, settings=settings, name=NAME)
    if handle.new:
        return handle
    with handle:
        _cancel_earlier(handle.database)
    return submit(manifest, settings=settings, name=NAME, again=True)


def _cancel_earlier(database: "Database") -> None:
    from db.cancel import cancel_batch
    from db.queries import list_batches

    for seen in list_batches(database, 100):
        if seen.name == NAME and not seen.finished:
            cancel_batch(database, seen.batch)


def _report(settings: Settings, database: "Database", seen: "Progress", *, ready_s: float) -> int:
    from db.queries import failure_codes, outcomes

    found = accuracy(rows := list(outcomes(database, seen.batch)))
    flagged = sorted((row for row in rows if row.flagged), key=lambda row: -(row.p_no or 0.0))
    print(f"\nflagged mismatches, the surest {min(FLAGGED_SHOWN, len(flagged))} of {len(flagged)}:")
    print_table(_table(flagged[:FLAGGED_SHOWN]))
    took_s = (seen.finished_at or 0.0) - (seen.started_at or 0.0)
    failures = ", ".join(f"{code} {count}" for code, count in failure_codes(database, seen.batch).items())
    share = 100 * found.right / max(found.judged, 1)
    lines = {
        "counts": counts_line(seen),
        "failures": f"{failures} (broken on purpose)" if not found.unexpected else failures,
        "time": f"{duration(took_s)}, {seen.rate or 0:.1f} pairs/s (before: {duration(ready_s)} to start and load)",
        "accuracy": f"{share:.1f} % of {found.judged} drawn pairs got their known label; of {found.known_no} pairs"
        f" known as No {found.known_no_flagged} are flagged, {found.flagged - found.known_no_flagged} others too",
        "ledger": f"{settings.home / 'audit.db'}, kept",
    }
    for name, text in lines.items():
        print(f"{name:9} {text}")
    if found.unexpected:
        print(f"not as expected: {', '.join(found.unexpected[:10])}")
    print("\n".join(["", "what to try next:", *(f"  {line}" for line in _next_steps(settings, seen))]), flush=True)
    return 0 if seen.state == "done" and not found.unexpected else 1


def _table(rows: "Sequence[OutcomeRow]") -> "Table":
    from ops.show import table

    shown = table("id", "image", "caption", "label", "p_no", "known")
    for row in rows:
        known = row.extra.get("known_label", "")
        add_row(shown, row.id, row.image, row.caption, row.label or "", f"{row.p_no or 0:.3f}", known)
    return shown


def _next_steps(settings: Settings, seen: "Progress") -> list[str]:
    command = f"{home_prefix(settings)}{typed_command()}"
    view = f"flagged_mismatches WHERE batch = {seen.batch} ORDER BY p_no DESC LIMIT 5"
    sql = f"SELECT id, caption, p_no FROM {view}"  # noqa: S608 - shown to be copied, not run
    ledger = os.path.relpath(settings.home / "audit.db")
    if shutil.which("sqlite3"):
        query = f'sqlite3 {ledger} "{sql}"'
    else:
        script = f"import sqlite3; print(*sqlite3.connect('{ledger}').execute('{sql}'), sep='\\n')"
        query = f'{relative(sys.executable)} -c "{script}"'
    return [
        f"{command} flagged {seen.batch}",
        f"{command} export {seen.batch} -o verdicts.csv",
        f"{command} report {seen.batch} -o report.html",
        query,
        f"{command} up      (and, in another terminal: {command} submit YOUR.csv --watch)",
    ]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
