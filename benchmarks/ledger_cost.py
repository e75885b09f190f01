"""What lease, fence and feed cost in CPU seconds: a real worker with them, and the same one without.

    python -m benchmarks.ledger_cost [--pairs 25000] [--rounds 5] [--database sqlite] [--database postgresql] [--write]

One slot with the stub engine at 1 ms a pair, micro-batches of 16, chunks of 256, small drawn pictures that are read and
decoded, the cache off. On a machine that cannot keep up 1,000 pairs/s, --slower 8 makes it 8 ms, and the ledger's times
as much longer, so that each pair has as many rounds. The ways run at the same time, each with a worker, a ledger and a
Redis (and a PostgreSQL) of its own. CPU seconds are those of the worker's processes, ended ones too, from the second
chunk's begin to the last one's end; on PostgreSQL also those of the whole server. What `off` leaves out:
benchmarks/ledger_cost_worker.py.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from random import Random
from threading import Lock

import psutil

from audit.pair import BatchId
from audit.settings import Settings
from benchmarks.ledger_cost_report import CHUNK, Run, Turn, report
from benchmarks.submit_rate import RESULTS as SUBMIT_RESULTS
from benchmarks.submit_rate import ROOT, fresh_ledger
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
PICTURES = 64
PATIENCE_S = 600
ONE_AT_A_TIME = Lock()
"""Alembic makes schemas with globals."""


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
        time.sleep(1.3 * settings.feed_every_s)  # the first round puts its statements together, too
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
        given = manifest(folder, CHUNK + pairs)
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
                assert on[1].total() == CHUNK + pairs
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
