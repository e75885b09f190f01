"""A submitted batch, as the program that submitted it sees it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from audit.errors import LedgerUnavailable, Transient
from audit.pair import BatchId
from db.cancel import cancel_batch
from db.engine import Database
from db.exports import OutcomeRow
from db.queries import Progress, outcomes, progress
from db.retry import retry_failures

LEDGER_PATIENCE_S = 60.0
"""How long waiting goes on while the ledger does not answer: a restart of PostgreSQL takes less."""


class WaitTimedOut(Transient):
    """The batch was not finished in the time that was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """One batch of the ledger.

    `pairs` were registered, `failed` of them as failures at once (bad rows); `duplicates` are rows left out because
    they repeat an earlier pair. `new` is False when the batch was there before. `sent` is False when Redis did not take
    messages, with the reason in `problem`: the batch is safe, and any worker or `caption-audit sweep` sends it later.
    `notes` are lines about what an operator should change in Redis.
    """

    batch: BatchId
    name: str
    pairs: int
    chunks: int
    duplicates: int
    failed: int
    new: bool
    sent: bool
    problem: str | None
    notes: tuple[str, ...] = ()
    database: Database

    def progress(self) -> Progress:
        """How far it is. Raises LedgerUnavailable."""
        return progress(self.database, self.batch)

    def wait(self, *, timeout_s: float | None = None, poll_s: float = 0.5) -> Progress:
        """Return when nothing will change any more (done, cancelled or parked); raises WaitTimedOut."""
        started = answered = time.monotonic()
        while True:
            try:
                seen = self.progress()
            except LedgerUnavailable:
                if time.monotonic() - answered > LEDGER_PATIENCE_S:
                    raise
            else:
                answered = time.monotonic()
                if seen.finished:
                    return seen
            left_s = None if timeout_s is None else started + timeout_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise WaitTimedOut("wait_timed_out", f"batch {self.batch} was not finished within {timeout_s:g} s")
            time.sleep(poll_s if left_s is None else min(poll_s, left_s))

    def outcomes(self) -> Iterator[OutcomeRow]:
        """Every outcome there is, in the order of the manifest, streamed."""
        return outcomes(self.database, self.batch)

    def flagged(self) -> Iterator[OutcomeRow]:
        """The flagged verdicts alone."""
        return outcomes(self.database, self.batch, flagged_only=True)

    def cancel(self) -> int:
        """Cancel what has no outcome yet and return how many pairs that is."""
        return cancel_batch(self.database, self.batch)

    def retry(self, *, code: str | None = None) -> int:
        """Have failures (those with this code) judged again, and return how many; workers begin within a second."""
        return retry_failures(self.database, self.batch, code=code)

    def close(self) -> None:
        """Give back the connection to the ledger."""
        self.database.close()

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
