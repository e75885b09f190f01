"""Giving back what a process held that its own worker has killed: no death, no attempt, nobody to blame."""

from sqlalchemy import update

from audit.holder import Holder
from db.engine import Database
from db.lease import no_holder
from db.tables import ChunkState, chunks


def abandon(database: Database, holder: Holder) -> int:
    """Free the chunks that this process holds, as if it had never claimed them; what it recorded stays.

    For the main process of its worker alone, once the process is dead. Returns how many chunks there were. Raises
    LedgerUnavailable.
    """
    held = (
        update(chunks)
        .where(
            chunks.c.state == ChunkState.RUNNING,
            chunks.c.holder_host == holder.host,
            chunks.c.holder_boot == holder.boot,
            chunks.c.holder_pid == holder.pid,
            chunks.c.holder_started == holder.started,
        )
        .values(state=ChunkState.PENDING, attempts=chunks.c.attempts - 1, **no_holder())
    )
    return database.transact(lambda connection: connection.execute(held).rowcount, tries=2)
