"""Structured logs: one event a line, in JSON unless a person is looking; Celery's own lines take the same way.

Ids, codes and seconds are logged; captions, picture bytes and URLs with secrets never are.
"""

import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

QUIET_S = 30.0
OF_OTHERS = ("celery", "kombu", "py.warnings")


class Repeats(logging.Filter):
    """Of equal complaints of Celery's, lets the first one of every QUIET_S through and says how many there were more.

    Celery connects anew several times a second while a full Redis refuses it, each time with a traceback of 4 kB.
    Equal are those with the same text and type of error; an error's own text may hold the number of its message.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._runs: dict[tuple[str, int, str, type | None], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Without a lock, which a fork could copy while it is held: two threads at once may miscount."""
        now = self._clock()
        self._tell(now)
        if record.levelno < logging.WARNING or not record.name.startswith(OF_OTHERS):
            return True
        key = (record.name, record.levelno, record.getMessage(), record.exc_info[0] if record.exc_info else None)
        first_at, more = self._runs.get(key, (now, -1))
        self._runs[key] = (first_at, more + 1)
        return more < 0

    def _tell(self, now: float) -> None:
        """The rest of each run that is over; with whatever line comes next."""
        for key, (first_at, more) in list(self._runs.items()):
            if now - first_at >= QUIET_S and self._runs.pop(key, (0.0, 0))[1]:
                told = {"line": key[2].partition("\n")[0], "times": more, "within_s": QUIET_S}
                logging.getLogger(__name__).warning("line repeated", extra=told)


def configure_logs(level: str) -> None:
    """Send every event of this process to stderr; idempotent."""
    person = sys.stderr.isatty()
    render: Any = structlog.dev.ConsoleRenderer() if person else structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Repeats())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*SHARED, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # One line a task is ours to write ("chunk judged"); Celery's would say it twice. Pillow's would be some a picture.
    for chatty in ("celery.worker.strategy", "celery.app.trace", "kombu", "amqp", "PIL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def last_words(line: str) -> None:
    """Write a line to stderr as the process leaves; on a full disk, or without a reader, it leaves all the same."""
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of one module."""
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return bound
