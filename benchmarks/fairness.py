"""How long a hundred pairs wait beside very many of another tenant, and what bulk gets beside interactive work.

    python -m benchmarks.fairness [--pairs 1000000] [--rounds 3] [--write]

A real worker with one slot and the stub engine, on SQLite. The large batch's chunks take 20 s each, so that giving way
shows; a hundred pairs alone take one second. Times are the ledger's: from opening the batch to its last outcome.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from audit.message import Lane
from audit.pair import BatchId
from audit.settings import Settings
from benchmarks.submit_rate import RESULTS as SUBMIT_RESULTS
from benchmarks.submit_rate import machine
from db import tables
from db.queries import progress
from producer import submit
from tests.support.manifests import small_manifest
from tests.support.redis_server import RedisServer, find_redis
from tests.support.running import changed, finished, ledger, running
from tests.support.waiting import wait_until

RESULTS = SUBMIT_RESULTS.with_name("fairness.md")
PAIR_S, CHUNK, FEW = 0.01, 2_000, 100
PATIENCE_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What a hundred pairs waited, once a round, and how many pairs of the large batch were judged meanwhile."""

    lane: Lane
    yield_s: float
    waits_s: list[float]
    meanwhile: list[int]


@contextmanager
def place(folder: Path) -> Iterator[Settings]:
    """A ledger, a Redis and a folder for one run."""
    executable = find_redis()
    if executable is None:
        raise SystemExit("there is no redis-server")
    redis = RedisServer(str(executable))
    redis.start()
    fields = {"home": folder / "home", "redis_url": redis.url, "engine": "stub", "devices": "cpu", "cache": False}
    try:
        yield Settings.model_validate({**fields, "micro_batch": 10, "stub_pair_s": PAIR_S, "chunk_pairs": CHUNK})
    finally:
        redis.close()


def waits(settings: Settings, folder: Path, *, pairs: int, rounds: int) -> Iterator[Wait]:
    """Hundreds of pairs, one after the other, beside one large batch; with giving way and without."""
    few = small_manifest(folder, pairs=FEW, name="few.csv")
    large = submit(small_manifest(folder, pairs=pairs, name="large.csv"), settings=settings, tenant="large").batch
    for yield_s in (settings.yield_s, 0.0):
        now = changed(settings, yield_s=yield_s)
        with running(now, folder) as worker, ledger(now) as database:
            before = progress(database, large).judged
            wait_until(lambda: progress(database, large).judged > before, timeout_s=PATIENCE_S, what="work")  # noqa: B023 - asked at once
            for lane in (Lane.BULK, Lane.INTERACTIVE):
                seen = []
                for _ in range(rounds):
                    small = submit(few, settings=now, tenant="small", lane=lane, again=True).batch
                    finished(now, small, timeout_s=PATIENCE_S, watch=worker)
                    seen.append(_waited(now, small, large))
                yield Wait(
                    lane=lane, yield_s=yield_s, waits_s=[s for s, _ in seen], meanwhile=[pairs for _, pairs in seen]
                )
            worker.stop()


def share(settings: Settings, folder: Path) -> tuple[int, int]:
    """Pairs of interactive batches that wait all the time, and of bulk meanwhile."""
    quick = changed(settings, home=folder / "share", chunk_pairs=50, stub_pair_s=0.004)
    bulk = submit(small_manifest(folder, pairs=20_000, name="bulk.csv"), settings=quick, tenant="large").batch
    manifest = small_manifest(folder, pairs=500, name="quick.csv")
    batches = [
        submit(manifest, settings=quick, tenant="small", lane=Lane.INTERACTIVE, again=True).batch for _ in range(6)
    ]
    with running(quick, folder) as worker:
        for batch in batches:
            finished(quick, batch, timeout_s=PATIENCE_S, watch=worker)
        worker.stop()
    outcomes = tables.outcomes.c
    with ledger(quick) as database, database.reading() as connection:
        end = select(func.max(outcomes.judged_at)).where(outcomes.batch.in_(batches)).scalar_subquery()
        found = select(func.count()).where(outcomes.batch == bulk, outcomes.judged_at <= end)
        return 500 * len(batches), int(connection.scalar(found) or 0)


def _waited(settings: Settings, small: BatchId, large: BatchId) -> tuple[float, int]:
    outcomes, batches = tables.outcomes.c, tables.batches.c
    with ledger(settings) as database, database.reading() as connection:
        begin = float(connection.scalar(select(batches.opened_at).where(batches.id == small)) or 0)
        end = float(connection.scalar(select(func.max(outcomes.judged_at)).where(outcomes.batch == small)) or 0)
        found = select(func.count()).where(outcomes.batch == large, outcomes.judged_at.between(begin, end))
        return end - begin, int(connection.scalar(found) or 0)


def report(measured: list[Wait], shared: tuple[int, int], pairs: int, command: str) -> str:
    """The results as Markdown."""
    lines = [
        "# How long a small batch waits beside a large one",
        "",
        f"A hundred pairs of one tenant beside {pairs:,} of another: one worker, one slot, the stub engine at",
        f"{PAIR_S * 1000:.0f} ms a pair, chunks of {CHUNK:,} pairs ({CHUNK * PAIR_S:.0f} s), SQLite. The wait is from",
        "opening the batch to its last outcome; a hundred pairs alone take 1 s.",
        "",
        f"Command: `{command}`",
        f"Machine: {machine()}",
        "",
        "| lane | `AUDIT_YIELD_S` | wait, median | wait, longest | pairs of the large batch meanwhile, most |",
        "|---|---:|---:|---:|---:|",
    ]
    for one in measured:
        times = f"{statistics.median(one.waits_s):.1f} s | {max(one.waits_s):.1f} s"
        lines.append(f"| {one.lane.value} | {one.yield_s:g} | {times} | {max(one.meanwhile):,} |")
    interactive, bulk = shared
    total = interactive + bulk
    got = f"{bulk:,} pairs of bulk were judged:\n{bulk / total:.0%} of {total:,} (promised: 20 %, in whole chunks)."
    lines += ["", f"While {interactive:,} interactive pairs waited all the time, {got}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and with --write keep the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, place(Path(name)) as settings:
        folder = Path(name)
        measured = []
        for one in waits(settings, folder, pairs=arguments.pairs, rounds=arguments.rounds):
            print(one, flush=True)
            measured.append(one)
        shared = share(settings, folder)
    command = f"python -m benchmarks.fairness --pairs {arguments.pairs} --rounds {arguments.rounds} --write"
    text = report(measured, shared, arguments.pairs, command)
    print(text)
    if arguments.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
