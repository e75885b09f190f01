"""The queue as the ledger knows it: the public view `queue`, which is the same in scripts, in KEDA and here."""

from dataclasses import dataclass

from sqlalchemy import text

from audit.message import Lane
from db.engine import Database

QUEUE = text(
    "SELECT model, lane, tenant, pending, sent, running, parked, pairs_left, oldest_waiting_s FROM queue"
    " ORDER BY model, lane DESC, tenant"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What one tenant has open on one lane of one model.

    `pending`, `sent`, `running` and `parked` count chunks. `pairs_left` are pairs without an outcome, parked ones too.
    `oldest_waiting_s` is the time since the oldest batch was opened that has a chunk which no process has in hand;
    None when none waits. Parked chunks wait for a person, not for a worker, and do not count in it.
    """

    model: str
    lane: Lane
    tenant: str
    pending: int
    sent: int
    running: int
    parked: int
    pairs_left: int
    oldest_waiting_s: float | None


def waiting(database: Database) -> list[Waiting]:
    """Every line of the queue, by model, interactive before bulk, then by tenant. Raises LedgerUnavailable."""
    with database.reading() as connection:
        return [
            Waiting(
                model=row.model,
                lane=Lane(row.lane),
                tenant=row.tenant,
                pending=int(row.pending),
                sent=int(row.sent),
                running=int(row.running),
                parked=int(row.parked),
                pairs_left=int(row.pairs_left),
                oldest_waiting_s=None if row.oldest_waiting_s is None else float(row.oldest_waiting_s),
            )
            for row in connection.execute(QUEUE)
        ]
