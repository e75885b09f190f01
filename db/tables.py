"""The ledger's tables and public views, as SQLAlchemy Core sees them; db/migrations/ is what creates them.

All times are seconds since the epoch by the database's own clock (column type double), so that arithmetic on leases is
the same on SQLite and PostgreSQL; the views show them as timestamps.
"""

from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
)

metadata = MetaData()
Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by itself for INTEGER PRIMARY KEY alone


class BatchState(StrEnum):
    """`registering` until its last slice is committed; only chunks of an `open` batch can be claimed."""

    REGISTERING = "registering"
    OPEN = "open"
    CANCELLED = "cancelled"


class ChunkState(StrEnum):
    """pending -> sent (a message is out) -> running (claimed) -> done; or cancelled, or parked after many deaths."""

    PENDING = "pending"
    SENT = "sent"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    PARKED = "parked"


batches = Table(
    "batches",
    metadata,
    Column("id", Id, primary_key=True),
    Column("key", Text, nullable=False, unique=True),  # idempotency: hash of the file, the options and the model
    Column("name", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("lane", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("model", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("image_root", Text, nullable=False),
    Column("wire_version", SmallInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("opened_at", Double),
    Column("cancelled_at", Double),
    Column("traceparent", Text),  # W3C trace context of the submission
    sqlite_autoincrement=True,  # an id that somebody wrote down never means another batch
)

chunks = Table(
    "chunks",
    metadata,
    Column("batch", Id, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    # A row range, both ends included. `pairs` may be smaller: a row that repeats an earlier one leaves a gap.
    Column("first_row", Id, nullable=False),
    Column("last_row", Id, nullable=False),
    Column("pairs", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("sent_at", Double),
    Column("sends", Integer, nullable=False, server_default="0"),
    Column("rank", SmallInteger),  # of its message: db/feed.py
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("deaths", Integer, nullable=False, server_default="0"),  # those that blame no pair
    Column("marker_row", Id),  # careful mode: the pair at hand, committed before it is touched
    Column("marker_stage", Text),
    # The rows that a process had in hand when it died at full speed, both included: whoever killed it is among them.
    Column("hand_first", Id),
    Column("hand_last", Id),
    Column("token", Text),  # the lease; kept when done, so that a COMMIT whose answer was lost is recognised
    Column("provenance", Text),  # JSON: who judges, and with what; for outcomes that the ledger itself must write
    Column("holder_host", Text),
    Column("holder_boot", Text),
    Column("holder_pid", Integer),
    Column("holder_started", BigInteger),
    # The main process of the holder's worker, of the same host and boot: while it lives, it alone says how one died.
    Column("keeper_pid", Integer),
    Column("keeper_started", BigInteger),
    Column("lease_until", Double),
    Column("claimed_at", Double),
    Column("done_at", Double),
    Column("yes", Integer, nullable=False, server_default="0"),
    Column("no", Integer, nullable=False, server_default="0"),
    Column("maybe", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("flagged", Integer, nullable=False, server_default="0"),
    Column("fenced", Integer, nullable=False, server_default="0"),  # writers that came too late
    Index("chunks_by_state", "state", "batch", "number"),
)

suspects = Table(
    "suspects",
    metadata,
    Column("batch", Id, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("row", Id, primary_key=True),
    Column("deaths", Integer, nullable=False),
    Column("slot", Text),  # where it died last; another slot is to judge it next
    Column("died_at", Double),
)

retries = Table(
    "retries",
    metadata,
    # Failures that are to be judged again; each stays in `outcomes` until its new outcome replaces it.
    Column("batch", Id, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("row", Id, primary_key=True),
    Column("chunk", Integer, nullable=False),
    Column("asked_at", Double, nullable=False),
    sqlite_with_rowid=False,
)

pairs = Table(
    "pairs",
    metadata,
    Column("batch", Id, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("row", Id, primary_key=True),
    Column("id", Text, nullable=False),
    # 0 for the pair that owns the id; the line number for a bad row, and for a row whose id belongs to other content.
    Column("conflict", Integer, nullable=False, server_default="0"),
    Column("image", Text, nullable=False),
    Column("caption", Text, nullable=False),
    Column("premise", Text),
    Column("extra", Text),  # the manifest's other columns, a JSON object
    # The pair as ASCII JSON, when a text of it cannot be stored as it is (NUL, bytes that are not UTF-8).
    Column("raw", Text),
    Index("pairs_by_id", "batch", "id", "conflict", unique=True),
    sqlite_with_rowid=False,
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("batch", Id, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("row", Id, primary_key=True),
    Column("label", Text),
    Column("p_yes", Double),
    Column("p_no", Double),
    Column("p_maybe", Double),
    Column("failure_code", Text),
    Column("failure_detail", Text),
    Column("flagged", Boolean, nullable=False),
    Column("flags", Text, nullable=False),  # names separated by one space
    Column("image_sha256", Text),
    Column("content_key", Text),
    Column("cached", Boolean, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_revision", Text, nullable=False),
    Column("engine", Text, nullable=False),
    Column("precision", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("decode_ms", Double),
    Column("model_ms", Double),
    Column("trace_id", Text),
    Column("judged_at", Double, nullable=False),
    CheckConstraint(
        # A comparison with NULL is neither true nor false, and a CHECK lets it pass: hence every IS NOT NULL.
        "(label IS NOT NULL AND label IN ('Yes', 'No', 'Maybe')"
        " AND p_yes IS NOT NULL AND p_no IS NOT NULL AND p_maybe IS NOT NULL"
        " AND failure_code IS NULL AND failure_detail IS NULL)"
        " OR (label IS NULL AND p_yes IS NULL AND p_no IS NULL AND p_maybe IS NULL"
        " AND failure_code IS NOT NULL AND failure_detail IS NOT NULL AND NOT flagged)",
        name="verdict_or_failure",
    ),
    CheckConstraint(
        "label IS NULL OR (p_yes >= 0 AND p_no >= 0 AND p_maybe >= 0 AND abs(p_yes + p_no + p_maybe - 1) < 0.001)",
        name="scores_sum_to_one",
    ),
    sqlite_with_rowid=False,
)

failure_history = Table(
    "failure_history",
    metadata,
    Column("batch", Id, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("row", Id, primary_key=True),
    Column("replaced_at", Double, primary_key=True),
    # The rest as it stood in `outcomes`.
    Column("failure_code", Text, nullable=False),
    Column("failure_detail", Text, nullable=False),
    Column("flags", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_revision", Text, nullable=False),
    Column("engine", Text, nullable=False),
    Column("precision", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("image_sha256", Text),
    Column("attempt", Integer, nullable=False),
    Column("judged_at", Double, nullable=False),
    sqlite_with_rowid=False,
)

feed_credit = Table(
    "feed_credit",
    metadata,
    # Pairs that the bulk lane is owed for those of the interactive lane that went ahead of it: db/feed.py.
    Column("model", Text, primary_key=True),
    Column("pairs", Double, nullable=False),
    sqlite_with_rowid=False,
)

judgements = Table(
    "judgements",
    metadata,
    Column("content_key", Text, primary_key=True),
    Column("p_yes", Double, nullable=False),
    Column("p_no", Double, nullable=False),
    Column("p_maybe", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    sqlite_with_rowid=False,
)

workers = Table(
    "workers",
    metadata,
    # Told by a worker's main process every few seconds, a row a slot; read by people alone.
    Column("host", Text, primary_key=True),
    Column("worker", Text, primary_key=True),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("pid", Integer, nullable=False),
    Column("boot", Text, nullable=False),
    Column("started", BigInteger, nullable=False),  # clock ticks since boot, as of a holder
    Column("started_at", Double, nullable=False),
    Column("child_pid", Integer),  # null while the slot has no process
    Column("device", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False),  # db/workers.py: SlotState
    Column("model_revision", Text),
    Column("precision", Text),
    Column("canary", Text),  # `passed`, or why it was not
    Column("canary_at", Double),
    Column("batch", Id),
    Column("chunk", Integer),
    Column("chunk_since", Double),
    Column("deaths", Integer, nullable=False, server_default="0"),
    Column("recycled", Integer, nullable=False, server_default="0"),
    Column("rss_bytes", BigInteger),
    Column("device_bytes", BigInteger),
    Column("seen_at", Double, nullable=False),
)

breakers = Table(
    "breakers",
    metadata,
    # A place that pictures come from (a batch's image root), as one host sees it: db/breakers.py. A row is there while
    # the place fails; without `opened_at` it has not failed often enough to be left alone.
    Column("host", Text, primary_key=True),  # as of a holder
    Column("place", Text, primary_key=True),
    Column("failures", Integer, nullable=False, server_default="0"),  # in a row
    Column("openings", Integer, nullable=False, server_default="0"),  # in a row; each is longer than the one before
    Column("failed_at", Double, nullable=False),
    Column("opened_at", Double),
    Column("open_until", Double),
    Column("probe_until", Double),  # until then one chunk tries the place, and no other
    Column("reason", Text, nullable=False),
    sqlite_with_rowid=False,
)

schema_serves = Table(
    "schema_serves",
    metadata,
    # One row: the schema revision of the oldest code that this ledger still serves; only contracting raises it.
    Column("oldest", Text, primary_key=True),
)
