"""A log record as one line: for people, or as JSON."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from structlog.contextvars import get_contextvars

from telemetry.log_floods import is_ours
from telemetry.log_text import LONGEST, Cleaner, words_of
from telemetry.stages import STAGE
from telemetry.traces import ids

Line = dict[str, Any]
IDS = ("batch", "chunk", "pair", "attempt")
FRAME = ("timestamp", "level", "stage", "event", "logger", "exception")
"""Fields that every line has, or that are shown apart; what an event tells beside them has names of its own."""
STAGE_OF = {
    "modelscope": "model_loading",
    "torch": "model_loading",
    "transformers": "model_loading",
    "worker.child": "model_loading",
    "worker.devices": "model_loading",
    "worker.engines": "model_loading",
    "worker.micro_batch_file": "model_loading",
    "worker.model_pool": "model_loading",
    "worker.sick": "model_loading",
    "PIL": "preprocess",
    "worker.captions": "preprocess",
    "worker.images": "preprocess",
    "worker.pictures": "preprocess",
    "worker.careful_judging": "inference",
    "worker.desk": "inference",
    "worker.judging": "inference",
    "worker.passes": "inference",
    "worker.told": "postprocess",
    "alembic": "ledger",
    "db": "ledger",
    "psycopg": "ledger",
    "sqlalchemy": "ledger",
    "worker.in_hand": "ledger",
    "worker.office": "ledger",
    "worker.stopping": "ledger",
    "worker.telling": "ledger",
}
"""Stage of a logger whose line is logged outside of every stage(); `queue` for all others, Celery's among them."""
ELSE = "queue"
_OWN_ATTRIBUTES = frozenset({*logging.makeLogRecord({}).__dict__, "message", "asctime", "told", "taskName"})


class LineFormatter(logging.Formatter):
    """Every record as one line, cleaned: ours, whose fields lie in `told`, and those of others."""

    def __init__(self, render: Callable[[Line], str], *, cleaner: Cleaner) -> None:
        super().__init__()
        self._render = render
        self._wary, self._trusting = cleaner, cleaner.trusting()

    def format(self, record: logging.LogRecord) -> str:
        """The line; what cannot be shown is said to be so, and raises nothing."""
        return self._render(self._line(record))

    def _line(self, record: logging.LogRecord) -> Line:
        wary = record.levelno >= logging.WARNING or record.exc_info or not is_ours(record.name)
        clean = self._wary if wary else self._trusting
        told: Mapping[str, Any] = getattr(record, "told", None) or _extras(record)
        around = get_contextvars()
        line: Line = {
            "timestamp": record.created,
            "level": record.levelname.lower(),
            "stage": clean.value(told.get("stage") or STAGE.get() or stage_of(record.name)),
            "event": clean.text(words_of(record), limit=2 * LONGEST),
            "logger": record.name,
        }
        fields = {**around, **told}
        for name in (*(known for known in IDS if known in fields), *(name for name in fields if name not in IDS)):
            if name not in FRAME:
                line[clean.text(name)] = clean.value(fields[name])
        spans = ids()
        if spans is not None:
            line.setdefault("trace_id", spans[0])
            line.setdefault("span_id", spans[1])
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line["exception"] = clean.stack(error, of_pairs="chunk" in around)
        return line


def stage_of(name: str) -> str:
    """The stage of a logger: its own, or that of the nearest package above it."""
    while name:
        if name in STAGE_OF:
            return STAGE_OF[name]
        name = name.rpartition(".")[0]
    return ELSE


def as_json(line: Line) -> str:
    """One JSON object; times in UTC."""
    at = datetime.fromtimestamp(line["timestamp"], UTC).isoformat(timespec="microseconds")
    return json.dumps({**line, "timestamp": at.replace("+00:00", "Z")}, ensure_ascii=False)


def as_text(line: Line) -> str:
    """For people: local time, level, stage, event and fields; an error's stack follows, every line of it indented."""
    at, rest = divmod(line["timestamp"], 1)
    clock = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))},{int(rest * 1000):03d}"
    fields = "".join(f" {name}={_word(value)}" for name, value in line.items() if name not in FRAME)
    stack = "".join(f"\n    | {part}" for part in line["exception"].split("\n")) if "exception" in line else ""
    return f"[{clock}] [{line['level'].upper()}] [{line['stage']}] {line['event']}{fields}{stack}"


def _word(value: Any) -> str:
    """As it is, or in quotes where it would look like more than one word."""
    if isinstance(value, str) and value and not any(char in value for char in " =\"'[]{}"):
        return value
    return json.dumps(value, ensure_ascii=False)


def _extras(record: logging.LogRecord) -> Mapping[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _OWN_ATTRIBUTES}
