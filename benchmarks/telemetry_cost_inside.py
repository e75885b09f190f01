"""What spans, stages, counters and ids cost a pool process, chunk by chunk in one process.

    python -m benchmarks.telemetry_cost_inside [--chunks 60] [--no-traces]

Two runs of a worker differ by some per cent whatever they do. Here one process judges the same 32 held-out pairs with
the shipped model again and again, with telemetry and without in turn (the names that the judging code uses are
replaced by empty ones), spans going to an OTLP receiver in another process that parses nothing.
CPU seconds of the whole process, the exporter's thread included. Celery's main process, logs and scrapes are not in it.
"""

import argparse
import importlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

PAIRS = 32
SINK = """
import time
from tests.support.otlp_receiver import receiving
with receiving(keep=False) as receiver:
    print(receiver.url, flush=True)
    time.sleep(3600)
"""


@contextmanager
def _nothing(*_names: Any, **_told: Any) -> Iterator[Any]:
    from benchmarks.telemetry_cost_worker import NOTHING

    yield NOTHING


@contextmanager
def without(modules: list[ModuleType]) -> Iterator[None]:
    """Telemetry's names in these modules are empty ones for the length of the block."""
    from benchmarks.telemetry_cost_worker import NOTHING

    empty = {"stage": _nothing, "about": _nothing, "span": _nothing, "meters": NOTHING, "here": NOTHING}
    named = [(module, name) for module in modules for name in empty if hasattr(module, name)]
    stack = [patch.object(module, name, empty[name]) for module, name in named]
    for one in stack:
        one.start()
    try:
        yield
    finally:
        for one in stack:
            one.stop()


def measure(folder: Path, chunks: int, *, traced: bool) -> tuple[list[float], list[float]]:
    """Milliseconds of CPU a pair, (with, without), of each chunk."""
    import gc

    import worker.judging
    import worker.passes
    import worker.pictures
    from audit.pair import Pair, Row
    from audit.settings import Settings
    from telemetry.exporting import flush, start_traces
    from telemetry.stages import about
    from telemetry.traces import span
    from worker.model_pool import find_model, load_engine, make_desk
    from worker.slots import Slot

    settings = Settings.model_validate({"home": folder / "home", "devices": "cpu", "http_port": 0})
    slot = Slot(number=0, device="cpu", threads=1)
    engine, _ = load_engine(find_model(settings), settings, slot)
    desk = make_desk(engine, settings, slot, lambda _key: None)
    drawn = importlib.import_module("benchmarks.drawn_pairs")  # these import torch: after the slot is pinned
    pairs = []
    for number, (picture, caption, _) in enumerate(drawn.heldout_pairs(PAIRS)):
        picture.save(folder / f"{number}.png")
        pairs.append(Pair(row=Row(number), id=f"p{number}", image=f"{number}.png", caption=caption))
    ofa = importlib.import_module("worker.engines.ofa")
    assert start_traces({}) is traced
    gc.freeze()

    def one() -> float:
        began = time.process_time()
        with span("chunk"), worker.pictures.quick_pictures(str(folder), settings) as pictures:
            judged = worker.judging.judge_pairs(pairs, desk=desk, pictures=pictures, stopping=lambda: False)
            assert sum(map(len, judged)) == PAIRS
        return (time.process_time() - began) * 1000 / PAIRS

    modules = [worker.judging, worker.passes, worker.pictures, ofa]
    told, silent = [], []
    one()
    for number in range(chunks):
        for way in ("on", "off") if number % 2 else ("off", "on"):
            if way == "on":
                with about(batch=1, chunk=number, attempt=1):
                    told.append(one())
            else:
                with without(modules):
                    silent.append(one())
    flush()
    return told, silent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--chunks", type=int, default=60)
    parser.add_argument("--no-traces", action="store_true", help="with ids alone: nothing is exported")
    arguments = parser.parse_args()
    sink = subprocess.Popen([sys.executable, "-c", SINK], stdout=subprocess.PIPE, text=True)
    try:
        assert sink.stdout is not None
        url = sink.stdout.readline().strip()
        if not arguments.no_traces:
            os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
        with tempfile.TemporaryDirectory(prefix="ca-bench-") as folder:
            told, silent = measure(Path(folder), arguments.chunks, traced=not arguments.no_traces)
    finally:
        sink.send_signal(signal.SIGTERM)
    ratios = sorted(on / off for on, off in zip(told, silent, strict=True))
    low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    print(f"with {statistics.median(told):.2f} ms of CPU a pair, without {statistics.median(silent):.2f} ms")
    half = 1.96 * statistics.stdev(ratios) / len(ratios) ** 0.5
    mean = statistics.mean(ratios)
    quarters = f"quarters {low:.3f} to {high:.3f}"
    print(f"on / off: median {statistics.median(ratios):.4f} ({quarters}), mean {mean:.4f} +- {half:.4f}")


if __name__ == "__main__":
    main()
