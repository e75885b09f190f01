"""What lease, fence and feed cost in CPU seconds: a real worker with them, and the same one without.

    python -m benchmarks.ledger_cost [--pairs 25000] [--rounds 5] [--database sqlite] [--database postgresql] [--write]

One slot with the stub engine at 1 ms a pair, micro-batches of 16, chunks of 256, small drawn pictures that are read and
decoded, the cache off. On a machine that cannot keep up 1,000 pairs/s, --slower 8 makes it 8 ms, and the ledger's times
as much longer, so that each pair has as many rounds. The ways run at the same time, each with a worker, a ledger and a
Redis (and a PostgreSQL) of its own. CPU seconds are those of the worker's processes, ended ones too, from the first
chunk's begin to the last one's end; on PostgreSQL also those of the whole server. What `off` leaves out:
benchmarks/ledger_cost_worker.py.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Lock

import psutil

from audit.pair import BatchId
from audit.settings import Settings
from benchmarks.submit_rate import RESULTS as SUBMIT_RESULTS
from benchmarks.submit_rate import ROOT, fresh_ledger, machine
from db.verify import verify_batch
from demo.drawing import draw, to_file
from demo.scenes import scene_of
from producer import submit
from tests.support.manifests import write_csv
from tests.support.postgres_server import PostgresServer, find_binaries
from tests.support.processes import environment
from tests.support.redis_server import RedisServer, find_redis
from tests.support.running import changed, ledger, results
from tests.support.waiting import wait_until

RESULTS = SUBMIT_RESULTS.with_name("ledger_cost.md")
KINDS = ("sqlite", "postgresql")
PICTURES, CHUNK = 64, 256
GOAL = 0.03
PATIENCE_S = 600
ONE_AT_A_TIME = Lock()
"""Alembic makes schemas with globals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One batch: seconds from its first chunk to its last, CPU seconds by process, and the machine's load."""

    seconds: float
    main_s: float
    child_s: float
    server_s: float
    load: float

    @property
    def worker_s(self) -> float:
        """CPU seconds of the worker's processes."""
        return self.main_s + self.child_s

    @property
    def total_s(self) -> float:
        """CPU seconds of both."""
        return self.worker_s + self.server_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A run with the ledger's work beside one without."""

    database: str
    on: Run
    off: Run


def cpu_s(pid: int) -> tuple[float, float]:
    """CPU seconds of a process, and of its children with what of them has ended."""
    root = psutil.Process(pid)
    own = root.cpu_times()
    children = own.children_user + own.children_system
    for process in root.children(recursive=True):
        times = process.cpu_times()
        children += times.user + times.system + times.children_user + times.children_system
    return own.user + own.system, children


def manifest(folder: Path, pairs: int) -> Path:
    """Pairs of drawn pictures, JPEG mostly, as through_a_file has them; each picture has many captions."""
    endings = ("jpg", "jpg", "jpg", "png", "webp")
    names = []
    for seed in range(PICTURES):
        ending = endings[seed % len(endings)]
        names.append(f"{seed}.{ending}")
        (folder / names[-1]).write_bytes(to_file(draw(scene_of(seed)), ending, quality=85))
    rng = Random(1)
    captions = (f"there is a {rng.choice(('red', 'blue'))} thing, seen for the {n}th time" for n in range(pairs))
    rows = ((f"p{n}", names[n % PICTURES], caption) for n, caption in enumerate(captions))
    return write_csv(folder / "pairs.csv", rows)


def times(slower: float) -> dict[str, float]:
    """1,000 pairs/s and the defaults, or all of it so many times slower: the same rounds and renewals for each pair."""
    names = ("feed_every_s", "tell_every_s", "resend_s", "yield_s", "lease_s")
    usual = {name: Settings.model_fields[name].default for name in names}
    return {name: slower * seconds for name, seconds in {**usual, "stub_pair_s": 0.001}.items()}


def run_once(way: str, settings: Settings, pairs: Path, server: PostgresServer | None) -> tuple[Run, Counter[str]]:
    """A fresh worker judges the batch; also returns its results, counted."""
    # All messages before the start, or one slot's window, as a worker keeps it.
    with ONE_AT_A_TIME:
        sent = submit(pairs, settings=changed(settings, feed_chunks_per_slot=1_000_000 if way == "off" else 1))
        sent.close()
    gate, log = settings.home / "gate", settings.home / "log"
    command = [sys.executable, "-m", "benchmarks.ledger_cost_worker", way, str(gate)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(settings), stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until(gate.with_suffix(".waiting").exists, timeout_s=PATIENCE_S, what=f"a worker, see {log}")
        return _timed(process.pid, gate, log, sent.chunks, server), _judged(way, settings, sent.batch)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _timed(pid: int, gate: Path, log: Path, chunks: int, server: PostgresServer | None) -> Run:
    """From opening the gate to the end of the last chunk; nobody else asks the server anything meanwhile."""

    def spent_s() -> tuple[float, float, float]:
        return *cpu_s(pid), sum(cpu_s(server.process.pid)) if server and server.process else 0.0

    before, began = spent_s(), time.monotonic()
    gate.touch()
    ended = f"the end of {chunks} chunks in {log}"
    wait_until(lambda: log.read_bytes().count(b'"chunk ended"') >= chunks, timeout_s=PATIENCE_S, what=ended)
    seconds, after = time.monotonic() - began, spent_s()
    main_s, child_s, server_s = (now - then for now, then in zip(after, before, strict=True))
    load = round(os.getloadavg()[0], 1)
    return Run(seconds=seconds, main_s=main_s, child_s=child_s, server_s=server_s, load=load)


def _judged(way: str, settings: Settings, batch: BatchId) -> Counter[str]:
    if way == "on":
        with ledger(settings) as database:
            assert list(verify_batch(database, batch)) == []
    return Counter(results(settings, batch).values())


def measure(kinds: list[str], *, pairs: int, rounds: int, slower: float) -> Iterator[Turn]:
    """Every round runs all of them at the same time: whatever else the machine does hits them alike."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ca-bench-")))
        given = manifest(folder, pairs)
        places = {(kind, way): _place(kind, stack) for kind in kinds for way in ("on", "off")}
        pool = stack.enter_context(ThreadPoolExecutor(len(places)))
        for number in range(rounds):
            running = {}
            for (kind, way), place in places.items():
                home = folder / f"{kind}-{number}-{way}"
                home.mkdir()
                running[kind, way] = pool.submit(_run, way, place, home=home, given=given, slower=slower)
            done = {key: future.result() for key, future in running.items()}
            for kind in kinds:
                on, off = done[kind, "on"], done[kind, "off"]
                assert on[1] == off[1]
                assert on[1].total() == pairs
                yield Turn(database=kind, on=on[0], off=off[0])


def _place(kind: str, stack: ExitStack) -> tuple[RedisServer, PostgresServer | None]:
    redis = RedisServer(str(find_redis()))
    stack.callback(redis.close)
    redis.start()
    server = PostgresServer(find_binaries() or Path(), durable=True) if kind == "postgresql" else None
    if server is not None:
        stack.callback(server.close)
        server.start()
    return redis, server


def _run(
    way: str, place: tuple[RedisServer, PostgresServer | None], *, home: Path, given: Path, slower: float
) -> tuple[Run, Counter[str]]:
    redis, server = place
    with redis.client() as client:
        client.flushall()
    with ExitStack() as stack:
        with ONE_AT_A_TIME:
            url = stack.enter_context(fresh_ledger(home, server))
        fields = {"home": home, "database_url": url, "redis_url": redis.url, "engine": "stub", "devices": "cpu"}
        fields |= {"cache": False, "chunk_pairs": CHUNK, "micro_batch": 16, **times(slower)}
        return run_once(way, Settings.model_validate(fields), given, server)


def report(turns: list[Turn], pairs: int, slower: float, command: str) -> str:
    """The results as Markdown."""
    lines = [
        "# What lease, fence and feed cost",
        "",
        f"CPU seconds of a real worker that judges {pairs:,} pairs with the ledger's work (`on`), and without (`off`):",
        "one slot, the stub engine at 1 ms a pair (1,000 pairs/s), micro-batches of 16, chunks of 256, small drawn",
        "pictures that are read and decoded, the cache off. In each round all of them run at the same time, with",
        "servers of their own, so that whatever else the machine does hits them alike.",
        "CPU seconds are those of all the worker's processes, from the first chunk's begin to the last one's end; a",
        "server is all of PostgreSQL's processes. A fake engine takes no CPU time of its own: beside a model that",
        "computes, the same seconds are a smaller part.",
        *_slowed(slower),
        "",
        "`off` is the same program with these taken away (benchmarks/ledger_cost_worker.py):",
        "",
        "- claim: reads the chunk's pairs and nothing else; no write transaction with state, holder, keeper, token,",
        "  attempt and lease, no look for outcomes that are there, retries and suspects, no dead holders",
        "- record: inserts the same outcomes and judgements and marks the chunk as done; no lock, no check of the",
        "  token, no count of the chunk's outcomes, no lease",
        "- renewals, and what a child notes on the board of its progress and of the rows in hand",
        "- housekeeping's sweep, recall, feed, giving way and telling; all messages lie in Redis before the start",
        "",
        "Both write one transaction a chunk with its outcomes, and both run Celery's messages and events.",
        "",
        f"Command: `{command}`",
        f"Machine: {machine()}",
    ]
    for kind in dict.fromkeys(turn.database for turn in turns):
        lines += ["", f"## {kind}", "", *_table([turn for turn in turns if turn.database == kind], pairs)]
    return "\n".join(lines) + "\n"


def _slowed(slower: float) -> list[str]:
    if slower == 1:
        return []
    return [
        "",
        f"The machine was too busy for 1,000 pairs/s, so everything was {slower:g} times slower alike: the engine, the",
        "rounds of housekeeping, telling, leases, and when messages are sent again. Each pair has as many rounds as at",
        "1,000 pairs/s. What Celery's main process does each second was not slowed, and makes both sums larger.",
    ]


def _table(turns: list[Turn], pairs: int) -> list[str]:
    served = any(turn.on.server_s for turn in turns)
    heads = ["", "worker on (main process)", "off (main process)", "on / off"]
    heads += ["server on", "off", "both, on / off"] if served else []
    heads += ["pairs/s on", "off", "load"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---:|' * len(heads)}"]
    for number, turn in enumerate(turns, 1):
        on, off = turn.on, turn.off
        cells = [f"{number}", *(f"{run.worker_s:.2f} s ({run.main_s:.2f})" for run in (on, off))]
        cells.append(f"{on.worker_s / off.worker_s:.3f}")
        if served:
            cells += [f"{on.server_s:.2f} s", f"{off.server_s:.2f} s", f"{on.total_s / off.total_s:.3f}"]
        cells += [f"{pairs / on.seconds:,.0f}", f"{pairs / off.seconds:,.0f}", f"{on.load:g}, {off.load:g}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", _said("The worker alone", [turn.on.worker_s / turn.off.worker_s for turn in turns])]
    if served:
        lines.append(_said("Worker and server together", [turn.on.total_s / turn.off.total_s for turn in turns]))
    extra_ms = statistics.median(1000 * (turn.on.worker_s - turn.off.worker_s) for turn in turns) / (pairs / CHUNK)
    lines.append(f"In the worker that is {extra_ms:.1f} ms of CPU time a chunk of {CHUNK} pairs (median).")
    return lines


def _said(who: str, ratios: list[float]) -> str:
    middle = statistics.median(ratios) - 1
    held = "kept" if middle <= GOAL else "missed"
    return (
        f"{who}: {middle:+.1%} (median of {len(ratios)}; {min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%}); the goal of"
        f" at most {GOAL:.0%} is {held}.\n"
    )


def main() -> None:
    """Measure, print, and with --write keep the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=25_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slower", type=float, default=1, help="slow engine and rounds down alike, on a busy machine")
    parser.add_argument("--database", action="append", choices=KINDS, help="default: both")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    turns = []
    kinds, slower = arguments.database or list(KINDS), arguments.slower
    for turn in measure(kinds, pairs=arguments.pairs, rounds=arguments.rounds, slower=slower):
        print(turn, f"{turn.on.worker_s / turn.off.worker_s:.3f} {turn.on.total_s / turn.off.total_s:.3f}", flush=True)
        turns.append(turn)
    options = f"--pairs {arguments.pairs} --rounds {arguments.rounds} --slower {slower:g}"
    text = report(turns, arguments.pairs, slower, f"python -m benchmarks.ledger_cost {options} --write")
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
