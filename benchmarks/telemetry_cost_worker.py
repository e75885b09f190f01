"""A worker that tells nothing of its work: for benchmarks.telemetry_cost. Settings come from the environment.

    python -m benchmarks.telemetry_cost_worker

It is the same program without stages, spans, counters and ids on lines: their names are replaced by empty ones before
anything that works imports them.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import telemetry.metrics
import telemetry.stages
import telemetry.traces
from audit.settings import read_settings


class Nothing:
    """Takes every call, and every question for a part of it, and answers with itself."""

    def __getattr__(self, _name: str) -> "Nothing":
        return self

    def __call__(self, *_arguments: Any, **_named: Any) -> "Nothing":
        """Do nothing."""
        return self


NOTHING: Any = Nothing()


@contextmanager
def _silence(*_names: Any, **_told: Any) -> Iterator[Any]:
    yield NOTHING


def main() -> int:
    """Run the worker; returns its exit status."""
    telemetry.stages.stage = _silence
    telemetry.stages.about = _silence
    telemetry.stages.Threads = ThreadPoolExecutor  # type: ignore[assignment, misc]  # a class is replaced on purpose
    telemetry.traces.span = _silence
    telemetry.traces.ids = lambda: None
    telemetry.metrics.meters = NOTHING
    telemetry.metrics.count_outcomes = NOTHING
    from worker.app import run_worker

    return run_worker(read_settings())


if __name__ == "__main__":
    sys.exit(main())
