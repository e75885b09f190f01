"""Subprocesses of `up`: started, watched, their logs kept, their last words read; and of the worker its readiness."""

import json
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from audit.settings import Settings
from ops import children
from ops.text import one_line, plain
from telemetry.log_files import log_file

HIDDEN_FIELDS = frozenset({"event", "level", "logger", "stage", "timestamp", "exception", "trace_id", "span_id"})
LEVELS_SHOWN = frozenset({"warning", "error", "critical"})
EVENTS_SHOWN = frozenset({"worker ready"})
EVENTS_SAID = frozenset({"worker cannot serve"})
"""Told by the worker's last words as well, which stay on the screen."""
TEXT_LINE = re.compile(r"\[[^]]{23}\] \[([A-Z]+)\] \[\w+\] (.*)")
SLOW = "pair slow"
LAST_WORDS = "caption-audit: "


class LoggedProcess:
    """One run of `caption-audit COMMAND`. `news` are lines that a person should see, oldest first.

    Its lines go to its log under AUDIT_HOME, or to `write`.
    """

    def __init__(
        self,
        settings: Settings,
        command: str,
        *,
        shown: Callable[[str], str | None],
        grace_s: float | None = None,
        write: Callable[[str], None] | None = None,
    ) -> None:
        self._settings = settings
        self._write = write or _writer(settings, command)
        self._shown = shown
        self._last_line: str | None = None
        self._last_shown: str | None = None
        grace_s = stop_grace_s(settings) if grace_s is None else grace_s
        self.news: deque[str] = deque(maxlen=1000)
        self.reason: str | None = None
        self.started_at = time.monotonic()  # somebody may set the clock
        reading, writing = os.pipe()
        # The worker holds the reading end too: when `up` is killed, its last lines must not fail with a broken pipe.
        # Celery's handler of TERM prints, takes that error for a lost connection, and would never stop.
        self.process = children.start(
            children.python_command("ops.cli", command),
            output=writing,
            environ=children.python_environment(
                {
                    "AUDIT_HOME": str(settings.home),
                    "AUDIT_STOP_GRACE_S": str(grace_s),
                    **(_as_for_a_person(settings) if write else {"AUDIT_LOG_FILES": "false"}),  # the pipe's reader does
                }
            ),
            keep=(reading,),
        )
        os.close(writing)
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the worker's main process."""
        return self.process.pid

    def left(self) -> int | None:
        """Its exit status once it has left, with all its lines read; negative for a signal."""
        status = self.process.poll()
        if status is not None:
            self._reader.join(timeout=2.0)
        return status

    @property
    def said(self) -> str | None:
        """Its last words; or the last line that matters, or the last one of all."""
        return self.reason or self._last_shown or self._last_line

    def ask_to_stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """TERM: it finishes or gives back what it holds."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def begin_end(self) -> None:
        """TERM to all its processes, and CONT: a main process that is stopped tells its children nothing."""
        for number in (signal.SIGTERM, signal.SIGCONT):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def is_gone(self) -> bool:
        """Whether none of its processes is left."""
        return self.left() is not None and not children.is_alive(self.pid)

    def end(self) -> None:
        """KILL, with all its pool processes."""
        children.kill(self.pid)
        self.process.wait()

    def _read(self, descriptor: int) -> None:
        with open(descriptor, "rb") as stream:
            for raw in stream:
                line = plain(raw.decode(errors="replace").rstrip("\r\n"))  # a library may write there what it likes
                self._write(line)
                self._last_line = one_line(line, limit=300) or self._last_line
                if line.startswith(LAST_WORDS):
                    self.reason = one_line(line.removeprefix(LAST_WORDS))
                shown = self._shown(line)
                if shown:
                    # Not printed here: a terminal that was stopped with Ctrl-S must not stop the worker.
                    self.news.append(shown)
                    self._last_shown = shown


class WorkerProcess(LoggedProcess):
    """One run of `caption-audit worker`, which has `grace_s` to stop."""

    def __init__(
        self, settings: Settings, *, grace_s: float | None = None, write: Callable[[str], None] | None = None
    ) -> None:
        super().__init__(settings, "worker", shown=human, grace_s=grace_s, write=write)
        # Of an earlier process with this number; the new one does not write for a while yet.
        with suppress(OSError):
            self._ready_file().unlink()

    def _ready_file(self) -> Path:
        return self._settings.home / "run" / f"worker-{self.pid}.json"

    def slots_ready(self) -> tuple[int, int]:
        """How many of its slots have proved their model by judging the canary pair, and how many there are."""
        try:
            told = json.loads(self._ready_file().read_text())
            return len(told["ready"]), int(told["slots"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0

    def is_ready(self) -> bool:
        """Whether every slot can judge."""
        ready, slots = self.slots_ready()
        return 0 < slots <= ready


def stop_grace_s(settings: Settings) -> float:
    """What the worker of an `up` has: less than `up` itself waits, so that it can still give back what it kills."""
    return min(settings.stop_grace_s, 0.8 * settings.shutdown_grace_s)


def human(line: str) -> str | None:
    """A log line for a person: time, event and fields of what matters; None for the rest."""
    now = time.strftime("%H:%M:%S")
    text = TEXT_LINE.fullmatch(line)
    if text:
        level, told = text[1].lower(), text[2]
        shown = _matters(level, next((known for known in EVENTS_SHOWN | EVENTS_SAID if told.startswith(known)), ""))
        return one_line(f"{now} {told}", limit=300) if shown else None
    try:
        event = json.loads(line)
    except ValueError:
        return None  # last words are told when the process has left; anything else is in the log file
    if not isinstance(event, dict) or not _matters(event.get("level"), event.get("event")):
        return None
    fields = " ".join(f"{name}={value}" for name, value in event.items() if name not in HIDDEN_FIELDS)
    return one_line(f"{now} {event.get('event')} {fields}".rstrip(), limit=300)


def _matters(level: object, event: object) -> bool:
    return event in EVENTS_SHOWN or (level in LEVELS_SHOWN and event not in EVENTS_SAID)


def _as_for_a_person(settings: Settings) -> dict[str, str]:
    """What comes out here as it is must not be JSON on a terminal, though the process writes to a pipe."""
    return {"AUDIT_LOG_FORMAT": "text"} if settings.log_format == "auto" and sys.stderr.isatty() else {}


def _writer(settings: Settings, command: str) -> Callable[[str], None]:
    whole, slow = log_file(settings, command), log_file(settings, "slow")

    def write(line: str) -> None:
        whole.write(line)
        if SLOW in line:
            slow.write(line)

    return write
