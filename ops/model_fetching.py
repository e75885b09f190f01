"""`model fetch` as a person or a script sees it: progress on stderr, the result on stdout, TERM like Ctrl-C."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from audit.errors import UsageError
from audit.models import HUB_ID
from audit.settings import Settings
from ops.modeling import note
from ops.show import print_json
from ops.text import one_line
from worker.engines.fetching import Fetched, fetch_model

EVERY_S = 10.0
"""Between two lines of progress where nobody looks at a terminal."""


def fetch_and_tell(settings: Settings, hub_id: str, *, revision: str, as_json: bool) -> None:
    """Fetch, and say where it is; raises as fetch_model() does, and KeyboardInterrupt when it is told to stop."""
    if not HUB_ID.fullmatch(hub_id):
        raise UsageError("unknown_model", f"{hub_id!r} is no ModelScope id, which looks like owner/name")
    if not revision or revision.startswith("-") or not revision.isprintable():
        raise UsageError("unknown_revision", f"{revision!r} is no branch, tag or commit")
    meter = _Meter(quiet=as_json)
    with _term_is_an_interrupt():
        try:
            fetched = fetch_model(settings.home, hub_id, asked=revision, progress=meter.update, say=meter.say)
        finally:
            meter.end()
    if fetched.note:
        note(fetched.note)
    if as_json:
        print_json(_to_json(fetched))
    elif fetched.fresh:
        print(f"fetched {hub_id}@{fetched.revision} into {fetched.directory}")
        if settings.model_name != hub_id:
            print(f"to judge with it: export AUDIT_MODEL={hub_id}")
    else:
        print(f"{hub_id}@{fetched.revision} is there already: {fetched.directory}")


def _to_json(fetched: Fetched) -> dict[str, object]:
    return {
        "id": fetched.hub_id,
        "asked": fetched.asked,
        "revision": fetched.revision,
        "directory": str(fetched.directory),
        "fresh": fetched.fresh,
        "downloaded_bytes": fetched.downloaded_bytes,
    }


class _Meter:
    """Progress: one line that changes on a terminal, else a line now and then; nothing when quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._told_at = time.monotonic()
        self._open = False

    def update(self, file: str, done: int, size: int) -> None:
        now = time.monotonic()
        if self._quiet or (not self._terminal and now - self._told_at < EVERY_S):
            return
        self._told_at = now
        line = one_line(f"{file} {done / 1e6:,.1f} of {size / 1e6:,.1f} MB")
        # \x1b[K wipes what a longer line left.
        print(f"\r{line}\x1b[K" if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr)
        sys.stderr.flush()
        self._open = self._terminal

    def say(self, text: str) -> None:
        self.end()
        if not self._quiet:
            note(text)

    def end(self) -> None:
        if self._open:
            print(file=sys.stderr, flush=True)
        self._open = False


@contextmanager
def _term_is_an_interrupt() -> Iterator[None]:
    """A service manager's TERM stops the fetch as Ctrl-C does: its client ends with it, and what is there stays."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
