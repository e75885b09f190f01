"""`caption-audit worker --guard`: a supervisor in the foreground, for where nothing else watches a worker.

The worker is a child in a session of its own. It is told to stop when this process dies, however that dies; signals
are passed on; its lines come out on this process's stderr as they are.
"""

import signal
import sys
import time
from collections import deque
from contextlib import suppress
from types import FrameType

from audit.errors import AuditError
from audit.settings import Settings
from ops.children import adopt_orphans, reap_orphans
from ops.restarts import Ended
from ops.tending import POLL_S, TendedWorker
from ops.watch import ENDING_S
from ops.worker_process import WorkerProcess
from telemetry.logs import configure_logs, logger

log = logger(__name__)
PASSED_ON = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGINT: signal.SIGINT,
    signal.SIGQUIT: signal.SIGQUIT,
    # The terminal is gone. A worker of its own would start itself anew, and nobody would know of it.
    signal.SIGHUP: signal.SIGTERM,
}
EX_INTERRUPTED = 130


class Signals:
    """What this process was told, oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[signal.Signals] = deque()
        self.first: signal.Signals | None = None
        for number in PASSED_ON:
            signal.signal(number, self)

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """The handler."""
        self.first = self.first or signal.Signals(number)
        self._waiting.append(signal.Signals(number))

    def pass_on(self, worker: WorkerProcess) -> None:
        """Tell the worker."""
        while self._waiting:
            worker.ask_to_stop(PASSED_ON[self._waiting.popleft()])


def run_guard(settings: Settings) -> int:
    """Keep one worker working until told to stop; returns the exit status, which is then the worker's.

    Raises WorkerLeft and Unavailable when no restart would help.
    """
    configure_logs(settings, part="guard")
    signals = Signals()
    adopt_orphans()  # processes of a worker whose main process was killed, to be waited for here

    def start() -> WorkerProcess:
        return WorkerProcess(settings, grace_s=settings.stop_grace_s, write=_pass_through)

    tended = TendedWorker(settings, start=start, show=lambda _line: None, restarting=_tell)
    try:
        tended.start()
        while signals.first is None:
            tended.tend()
            _reap(tended)
            time.sleep(POLL_S)
    except AuditError as error:
        log.critical("guard gives up", reason=error.detail)
        raise
    return _stop(tended, signals, settings)


def _stop(tended: TendedWorker, signals: Signals, settings: Settings) -> int:
    if tended.worker is None:
        return EX_INTERRUPTED if signals.first is signal.SIGINT else 0

    def again() -> bool:
        if tended.worker is not None:
            signals.pass_on(tended.worker)
        _reap(tended)
        return False

    return tended.stop(patience_s=settings.stop_grace_s + ENDING_S, at_once=again, ask=signals.pass_on)


def _reap(tended: TendedWorker) -> None:
    reap_orphans(but=tended.worker.pid if tended.worker else 0)


def _tell(ended: Ended, wait_s: float) -> None:
    log.error(
        "worker is started again",
        cause=ended.cause,
        ended=ended.how,
        said=ended.said,
        lived_s=round(ended.lived_s, 1),
        wait_s=round(wait_s, 2),
        worker=ended.pid,
    )


def _pass_through(line: str) -> None:
    with suppress(OSError):  # a full disk, or nobody who reads: the worker goes on
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
