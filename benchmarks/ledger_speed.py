"""What a chunk costs in the ledger, here and in an older checkout, and how soon the progress of a large batch is told.

    python -m benchmarks.ledger_speed [--before FOLDER] [--rounds 60] [--pairs 10000000] [--write]

Durable settings: SQLite with synchronous FULL, PostgreSQL with fsync on. Both checkouts take turns, chunk by chunk,
each with a ledger of its own on the same server: whatever else the machine does hits both alike. FOLDER is a worktree.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert

from audit.pair import BatchId
from audit.settings import Settings
from benchmarks.record_rate import CHUNK
from benchmarks.submit_rate import RESULTS as SUBMIT_RESULTS
from benchmarks.submit_rate import ROOT, fresh_ledger, machine
from db.engine import Database, open_database
from db.queries import progress
from db.tables import chunks
from tests.support.claims import PROVENANCE
from tests.support.ledger_rows import add_batch
from tests.support.postgres_server import PostgresServer, find_binaries

RESULTS = SUBMIT_RESULTS.with_name("ledger_speed.md")
CHUNK_GOAL_MS = 15
PROGRESS_GOAL_MS = 50
WARM = 3
"""First rounds that do not count: they fill caches."""
ASKED = 20
Seconds = dict[str, list[float]]
WAITING = {
    "pairs": CHUNK,
    "state": "pending",
    "attempts": 0,
    "yes": 0,
    "no": 0,
    "maybe": 0,
    "failed": 0,
    "flagged": 0,
    **dict.fromkeys(("token", "provenance", "holder_host", "claimed_at", "done_at", "lease_until")),
}
HELD = {"state": "running", "attempts": 1, "token": "0" * 32, "provenance": PROVENANCE.to_json(), "holder_host": "host"}
JUDGED = {"state": "done", "yes": 200, "no": 40, "maybe": 15, "failed": 1, "flagged": 40}


@contextmanager
def side(checkout: Path, url: str, rounds: int) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs the checkout's code."""
    command = [sys.executable, str(ROOT / "benchmarks" / "one_chunk.py"), url, str(rounds + WARM)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=checkout, env=environment, **pipes) as process:
        assert process.stdin is not None
        try:
            assert _answer(process) == "ready"
            yield process
        finally:
            process.stdin.close()


def time_chunks(
    checkouts: Mapping[str, Path], server: PostgresServer | None, folder: Path, rounds: int
) -> dict[str, Seconds]:
    """Of each checkout, in turns: seconds of claim, record and both, and of the client's processor."""
    found: dict[str, Seconds] = {name: {} for name in checkouts}
    with ExitStack() as stack:
        sides = {}
        for name, checkout in checkouts.items():
            url = stack.enter_context(fresh_ledger(folder, server))
            sides[name] = stack.enter_context(side(checkout, url, rounds))
        for turn in range(rounds + WARM):
            for name in (list(sides), list(sides)[::-1])[turn % 2]:
                took = json.loads(_answer(sides[name], ask=True))
                took["both"] = took["claim"] + took["record"]
                for what in took if turn >= WARM else ():
                    found[name].setdefault(what, []).append(took[what])
    return found


def _answer(process: "subprocess.Popen[str]", *, ask: bool = False) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    if ask:
        process.stdin.write("\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


def fill(connection: Connection, *, batch: BatchId, count: int, done: int) -> None:
    """Chunks of the batch, the first of them done a second apart until now, eight in hand, the others waiting."""
    now = time.time()
    connection.execute(delete(chunks).where(chunks.c.batch == batch))
    rows: list[dict[str, Any]] = []
    for number in range(count):
        rows.append({**WAITING, "batch": batch, "number": number, "first_row": number * CHUNK})
        rows[-1]["last_row"] = rows[-1]["first_row"] + CHUNK - 1
        if number < done:
            ended = now - (done - number)
            rows[-1] |= {**HELD, **JUDGED, "claimed_at": ended - 30, "done_at": ended}
        elif 0 < done <= number < done + 8:
            rows[-1] |= {**HELD, "claimed_at": now, "lease_until": now + 3600}
    connection.execute(insert(chunks), rows)


def time_progress(database: Database, pairs: int) -> Seconds:
    """Seconds of db.queries.progress of a batch of so many pairs: queued, half judged, and done."""
    batch, count = add_batch(database), -(-pairs // CHUNK)
    found: Seconds = {}
    for state, done in {"queued": 0, "running": count // 2, "done": count}.items():
        database.transact(partial(fill, batch=batch, count=count, done=done))
        for turn in range(ASKED + WARM):
            began = time.perf_counter()
            told = progress(database, batch)
            if turn >= WARM:
                found.setdefault(state, []).append(time.perf_counter() - began)
        assert (told.state, told.submitted) == (state, count * CHUNK)
    return found


def measure(before: Path | None, rounds: int, pairs: int) -> dict[str, tuple[dict[str, Seconds], Seconds]]:
    """Both databases."""
    checkouts = {"before": before, "now": ROOT} if before else {"now": ROOT}
    found = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ca-bench-")))
        server = PostgresServer(find_binaries() or Path(), durable=True)
        stack.callback(server.close)
        server.start()
        for kind, of in {"sqlite": None, "postgresql": server}.items():
            timed = time_chunks(checkouts, of, folder, rounds)
            with fresh_ledger(folder, of) as url:
                database = open_database(Settings.model_validate({"database_url": url}).ledger_url)
                found[kind] = (timed, time_progress(database, pairs))
                database.close()
    return found


def report(found: Mapping[str, tuple[dict[str, Seconds], Seconds]], command: str, pairs: int) -> str:
    """The results as Markdown."""
    lines = [
        "# How fast the ledger is",
        "",
        f"Command: `{command}`",
        f"Machine: {machine()}",
        "",
        "## A chunk of 256 pairs, from the ledger and back",
        "",
        "Claim and record, one transaction each with its COMMIT, durable settings (SQLite with `synchronous=FULL`,",
        "PostgreSQL with `fsync` on, on the same machine). The median, in parentheses the fastest; `processor` is the",
        "client's own work in both. An older version and this one took turns, chunk by chunk; the ratio is of medians.",
        f"Goal: both under {CHUNK_GOAL_MS} ms, on a machine that has nothing else to do. Where other programs keep it",
        "busy, only the ratios and the processor's time mean something.",
        "",
        "On PostgreSQL the two transactions are 11 messages, BEGIN and COMMIT included (20 before they were counted;",
        "tests/db/test_sessions.py keeps them few). Most of what is left is the server's: 256 outcomes, each with its",
        "foreign key looked up, and as many judgements at random places of their index, are half of its work.",
    ]
    for kind, (chunk_times, _) in found.items():
        older = [name for name in chunk_times if name != "now"]
        lines += ["", f"| {kind} | {' | '.join([*older, 'now', *(['ratio'] if older else [])])} |"]
        lines.append("|---|" + "---:|" * (len(older) * 2 + 1))
        for what, label in {"claim": "claim", "record": "record", "both": "both", "cpu": "processor"}.items():
            cells = [_told(chunk_times[name][what]) for name in [*older, "now"]]
            cells += [f"{_median(chunk_times['now'][what]) / _median(chunk_times[name][what]):.2f}" for name in older]
            lines.append(f"| {label} | {' | '.join(cells)} |")
        rate = CHUNK / _median(chunk_times["now"]["both"])
        lines += ["", f"That is {rate:,.0f} pairs/s for one process that does nothing else."]
    lines += [
        "",
        "## The progress of a large batch",
        "",
        f"`db.queries.progress` of {pairs:,} pairs in chunks of {CHUNK}, of which none is judged, half, and all.",
        f"The median of {ASKED} with warm caches, in parentheses the fastest. Goal: under {PROGRESS_GOAL_MS} ms.",
        "",
        "| ledger | queued | running | done |",
        "|---|---:|---:|---:|",
    ]
    for kind, (_, told) in found.items():
        lines.append(f"| {kind} | {' | '.join(_told(seconds) for seconds in told.values())} |")
    return "\n".join(lines) + "\n"


def _median(seconds: list[float]) -> float:
    return statistics.median(seconds)


def _told(seconds: list[float]) -> str:
    return f"{_median(seconds) * 1000:.1f} ms ({min(seconds) * 1000:.1f})"


def main() -> None:
    """Measure, print, and with --write keep the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--before", type=Path, help="an older checkout, to be timed in turns with this one")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} under docs/results")
    given = parser.parse_args()
    before = given.before.resolve() if given.before else None
    command = f"python -m benchmarks.ledger_speed{' --before OLDER' if before else ''} --rounds {given.rounds} --write"
    told = report(measure(before, given.rounds, given.pairs), command, given.pairs)
    print(told)
    if given.write:
        RESULTS.write_text(told, encoding="utf-8")


if __name__ == "__main__":
    main()
