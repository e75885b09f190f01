"""Submissions and workers whose spans a test looks at."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import select

from audit.pair import BatchId
from audit.settings import Settings
from db import tables
from telemetry.span_names import SPANS, attribute
from tests.support.manifests import draw, write_csv
from tests.support.otlp_receiver import Receiver, Span
from tests.support.running import ROOT, Worker, ledger, running, variables

SOON = {"OTEL_BSP_SCHEDULE_DELAY": "200"}


def to(receiver: Receiver, **more: str) -> dict[str, str]:
    """The environment of who sends there."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **SOON, **more}


def manifest(folder: Path, captions: Mapping[str, str], **pictures: str) -> Path:
    """A caption for each id; all have the same picture but those that are told another name."""
    draw(folder / "red.png", size=(9, 7))
    rows = [(name, pictures.get(name, "red.png"), caption) for name, caption in captions.items()]
    return write_csv(folder / "pairs.csv", rows)


def submitted(settings: Settings, path: Path, environment: Mapping[str, str]) -> BatchId:
    """By the command, in a process of its own, as an operator does; returns the batch."""
    command = [sys.executable, "-m", "ops.cli", "submit", str(path), "--json"]
    environ = {**os.environ, **variables(settings), **environment}
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return BatchId(json.loads(done.stdout)["batch"])


@contextmanager
def working(
    settings: Settings, tmp_path: Path, environment: Mapping[str, str], *, before: Sequence[str] = ()
) -> Iterator[Worker]:
    """A worker with these variables."""
    given: dict[str, Any] = dict(environment)
    with running(settings, tmp_path, before=before, **given) as worker:
        yield worker


def one(spans: Iterable[Span], name: str) -> Span:
    """The only one of that name."""
    spans = list(spans)
    found = [span for span in spans if span.name == name]
    assert len(found) == 1, Counter(span.name for span in spans)
    return found[0]


def known_words(span: Span) -> set[str]:
    """Attributes that the table promises for it, and those of failures."""
    return {attribute(word) for word in SPANS[span.name].tells} | {"error.type"}


def trace_ids(settings: Settings, batch: int) -> dict[int, str]:
    """By row, from the ledger."""
    outcomes = tables.outcomes.c
    with ledger(settings) as database, database.reading() as connection:
        found = connection.execute(select(outcomes.row, outcomes.trace_id).where(outcomes.batch == batch))
        return {row.row: row.trace_id for row in found}
