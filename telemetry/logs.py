"""Structured logs: one event a line, for people or in JSON; Celery's own lines take the same way.

One meaning a level. DEBUG: each pair. INFO: what happens as it should. WARNING: it goes on, but degraded (on the CPU,
without Redis, with a process killed). ERROR: work failed. CRITICAL: this worker, or this process, cannot serve.

Ids, codes and seconds are logged; captions, picture bytes, names of pictures and secrets never are.
"""

import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

import structlog
from pydantic import SecretStr

from audit.settings import Settings
from telemetry.log_files import FileHandler, log_file
from telemetry.log_floods import Repeats
from telemetry.log_lines import LineFormatter, as_json, as_text, stage_of
from telemetry.log_text import Cleaner, secrets_of
from telemetry.metrics import meters
from telemetry.stages import STAGE

SLOW = "pair slow"
"""The event that has a log of its own as well."""
CHATTY = ("celery.worker.strategy", "celery.app.trace", "kombu", "amqp", "alembic.runtime.plugins", "PIL")
"""One line a task is ours to write ("chunk ended"); Celery's would say it twice. Pillow's would be some a picture."""


POOL = "multiprocessing"
"""The logger of billiard, which Celery's pool is made of."""
SAID_OF_THE_POOL = "Process %r pid:%r exited with %r"
"""Billiard's line of a child's death; ours ("worker process died") has the slot and the reason."""


def _said_of_the_pool(record: logging.LogRecord) -> bool:
    return record.msg != SAID_OF_THE_POOL


class _Counted(logging.Filter):
    """Counts what failed, whether it is let through or not."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            with suppress(Exception):  # a full disk under the counters
                meters().errors.labels(getattr(record, "told", {}).get("stage") or _stage(record)).inc()
        return True


class _OfEvent(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg == SLOW


def configure_logs(settings: Settings, *, part: str = "command") -> None:
    """Send every event of this process to stderr and, with AUDIT_LOG_FILES, to a file of this part of the worker.

    Idempotent: what an earlier call, or the process that this one was forked from, has set up is replaced.
    """
    cleaner = Cleaner(_secrets(settings))
    person = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    shown = LineFormatter(as_text if person else as_json, cleaner=cleaner)
    kept = LineFormatter(as_text if settings.log_format == "text" else as_json, cleaner=cleaner)
    stderr = logging.StreamHandler(sys.stderr)
    stderr.addFilter(_Counted())
    stderr.addFilter(Repeats(cleaner))
    stderr.setFormatter(shown)
    handlers: list[logging.Handler] = [stderr]
    if settings.log_files:
        handlers += _to_files(settings, part, kept, Repeats(cleaner))
    root = logging.getLogger()
    for old in root.handlers:
        if isinstance(old, FileHandler):
            old.close()
    root.handlers[:] = handlers
    root.setLevel(settings.log_level.upper())
    # It passes nothing on to the root, and without a handler of its own it writes bare words to stderr.
    pool = logging.getLogger(POOL)
    pool.handlers[:] = handlers
    pool.propagate = False
    pool.filters[:] = [_said_of_the_pool]
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, _to_record],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def last_words(reason: str, *, status: int) -> None:
    """Why this worker leaves: an event, and a line as commands end with, which `up` and systemd show.

    On a full disk, or without a reader, it leaves all the same.
    """
    logger("worker.lifecycle").critical("worker cannot serve", reason=reason, status=status)
    with suppress(OSError):
        sys.stderr.write(f"caption-audit: {reason}\n")
        sys.stderr.flush()


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of one module."""
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return bound


def _to_files(settings: Settings, part: str, formatter: logging.Formatter, repeats: Repeats) -> list[logging.Handler]:
    own, slow = FileHandler(log_file(settings, part)), FileHandler(log_file(settings, "slow"))
    own.addFilter(repeats)
    slow.addFilter(_OfEvent())
    for handler in (own, slow):
        handler.setFormatter(formatter)
    return [own, slow]


def _to_record(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, dict[str, Any]]]:
    """The last of structlog's steps: from here on an event of ours is a record as any other, its fields in `told`."""
    words = event.pop("event", "")
    of_logging = {name: event.pop(name) for name in ("exc_info", "stack_info", "stacklevel") if name in event}
    return (words,), {**of_logging, "extra": {"told": dict(event)}}


def _stage(record: logging.LogRecord) -> str:
    return STAGE.get() or stage_of(record.name)


def _secrets(settings: Settings) -> tuple[str, ...]:
    values = (getattr(settings, name) for name in type(settings).model_fields)
    return secrets_of(*(value.get_secret_value() for value in values if isinstance(value, SecretStr)))
