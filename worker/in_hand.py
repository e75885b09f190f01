"""The chunk that a process holds, and what it owes the ledger for it: outcomes, markers, renewals, and its return."""

from dataclasses import dataclass, field

from audit.pair import Row
from audit.verdict import Failure, Outcome
from db.lease import Claim, mark, release, renew
from db.record import Recorded, record
from db.tables import ChunkState
from telemetry.logs import logger
from telemetry.metrics import count_outcomes, meters
from telemetry.stages import stage
from telemetry.traces import ids
from worker.office import Office, patiently

log = logger(__name__)


class TakenOver(Exception):
    """The lease is somebody else's now: stop, and write nothing."""

    def __str__(self) -> str:
        return "another process has taken it over"


class Cancelled(TakenOver):
    """The batch was cancelled; what had been judged is recorded."""

    def __str__(self) -> str:
        return "its batch was cancelled"


@dataclass(slots=True, kw_only=True)
class InHand:
    """`unsaved` are outcomes that are not recorded yet; `got_on` is whether any of this claim's have been.

    `failed` counts failures that were recorded.
    """

    held: Claim
    office: Office
    unsaved: list[Outcome] = field(default_factory=list)
    got_on: bool = False
    failed: int = 0

    def save(self) -> Recorded:
        """Record with patience, a shutdown notwithstanding. Raises TakenOver when fenced, Cancelled after a cancel."""
        office = self.office
        office.written.about_to(self.unsaved)
        found = ids()
        trace_id = found[0] if found else None
        with stage("ledger", "record", pairs=len(self.unsaved)) as seen:
            recorded = patiently(
                lambda: record(office.database, self.held, self.unsaved, trace_id=trace_id), office, until_stopped=False
            )
            seen.tell(recorded=recorded.value)
        if recorded is Recorded.FENCED:
            meters().fenced_writes.inc()
            raise TakenOver
        # First, so that a time limit that comes now cannot have them counted again with the next record.
        saved, self.unsaved = self.unsaved, []
        self.got_on = self.got_on or bool(saved)
        self.failed += sum(isinstance(outcome.result, Failure) for outcome in saved)
        office.written.recorded(saved)
        count_outcomes(saved, policy=self.held.policy)
        if recorded is Recorded.CANCELLED:
            raise Cancelled
        return recorded

    def renew(self) -> None:
        """Tell the ledger that it goes on. Raises TakenOver."""
        with stage("ledger", "renew"):
            renewed = patiently(lambda: renew(self.office.database, self.held), self.office)
        if not renewed:
            self.save()  # raises: what is judged is kept if it is a cancel that took the lease

    def mark(self, row: Row, at: str) -> None:
        """Commit that this pair is at hand, alone. Raises TakenOver."""
        with stage("ledger", "mark", pair=row, at=at):
            marked = patiently(lambda: mark(self.office.database, self.held, row=row, stage=at), self.office)
        if not marked:
            raise TakenOver
        self.office.marked()

    def give_back(self, *, charge: bool) -> None:
        """Let anybody claim the rest; with `charge` a death is counted, and the last one allowed parks the chunk."""
        office = self.office
        with stage("ledger", "release", charged=charge):
            state = patiently(lambda: release(office.database, self.held, charge=charge), office, until_stopped=False)
        if state is ChunkState.PARKED:
            meters().chunks_parked.inc()
            cure = "mend what the log names, then: caption-audit sweep --parked"
            log.error("chunk parked", cure=cure)
