"""Looking at a worker from outside: does it hang, can it judge, does it get on?

What is looked at is what its main process writes of itself, as `caption-audit health` does. An outage of Redis or of
the ledger is none of these: a restart cannot end it.
"""

import time
from math import inf

from audit.settings import Settings
from worker.seen import Probe, WorkerSeen, workers_seen

LOOK_EVERY_S = 0.5
PAUSED_S = 5.0
"""Who has not looked for so long was paused himself (a laptop's lid, a frozen container), and the worker with him."""
ENDING_S = 8.0
"""What the end of a worker takes beyond its grace period, at most; it tells nothing of itself meanwhile."""


class Watch:
    """One run of a worker. Times are monotonic: somebody may set the clock."""

    def __init__(self, settings: Settings, pid: int, *, now: float) -> None:
        self._settings = settings
        self._pid = pid
        self._path = settings.home / "run" / f"worker-{pid}.json"
        self._written: int | None = None
        self._started = self._looked_at = self._heard_at = self._fit_at = now
        self._quiet_since: float | None = None
        self._finished = 0
        self.progressed = False
        """Whether it has finished something since somebody made this false, or was ready for long and had no work."""

    def look(self, now: float) -> str | None:
        """Look, if it is time to; returns why the worker should be ended, in words, or None."""
        since = now - self._looked_at
        if since < LOOK_EVERY_S:
            return None
        if since > PAUSED_S:
            self._started, self._heard_at, self._fit_at = (
                at + since for at in (self._started, self._heard_at, self._fit_at)
            )
        self._looked_at = now
        self._listen(now)
        seen = next((one for one in workers_seen(self._settings.home, now=time.time()) if one.pid == self._pid), None)
        if seen is not None:
            self._note_progress(seen, now)
        return self._hangs(seen, now) or self._unfit(seen, now)

    def _listen(self, now: float) -> None:
        try:
            written = self._path.stat().st_mtime_ns
        except OSError:
            return
        if written != self._written:
            self._written, self._heard_at = written, now

    def _hangs(self, seen: WorkerSeen | None, now: float) -> str | None:
        settings = self._settings
        silent_s = now - self._heard_at
        if self._written is None:  # it hashes its model, and waits for its ledger, before it tells anything
            limit_s = settings.start_wait_s + self._unready_s
            return f"it told nothing of itself for {silent_s:.0f} s after its start" if silent_s > limit_s else None
        if silent_s <= max(settings.guard_silent_s, settings.stop_grace_s + ENDING_S, 3 * settings.feed_every_s):
            return None
        return seen.wrong(Probe.LIVE, -1.0) if seen else f"it has told nothing of itself for {silent_s:.0f} s"

    def _unfit(self, seen: WorkerSeen | None, now: float) -> str | None:
        wrong = seen and seen.wrong(Probe.READY, inf)
        if not seen or not wrong or seen.waits or seen.stopped:
            self._fit_at = now
            return None
        unfit_s = now - self._fit_at
        return f"{wrong}, for {unfit_s:.0f} s" if unfit_s > self._unready_s else None

    @property
    def _unready_s(self) -> float:
        # A load may take the whole canary limit, and fail, and the next one too.
        return self._settings.guard_unready_s or 2 * self._settings.canary_limit_s

    def _note_progress(self, seen: WorkerSeen, now: float) -> None:
        if seen.finished > self._finished:
            self._finished, self.progressed = seen.finished, True
        if seen.busy or seen.waits or seen.wrong(Probe.READY, self._settings.guard_silent_s):
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        elif now - self._quiet_since > self._settings.guard_steady_s:
            self.progressed = True
