"""Workers tell of themselves, and the queue is a view. Expand only: code of 0001 works on beside it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
ZERO = sa.text("0")
QUEUE = """
CREATE VIEW queue AS
SELECT model, lane, tenant, pending, sent, running, parked, pairs_left,
       CASE WHEN {now} > waiting_since THEN {now} - waiting_since WHEN waiting_since IS NOT NULL THEN 0 END
         AS oldest_waiting_s
FROM (
  SELECT b.model, b.lane, b.tenant,
         count(*) FILTER (WHERE c.state = 'pending') AS pending,
         count(*) FILTER (WHERE c.state = 'sent') AS sent,
         count(*) FILTER (WHERE c.state = 'running') AS running,
         count(*) FILTER (WHERE c.state = 'parked') AS parked,
         sum(c.pairs - c.yes - c.no - c.maybe - c.failed) AS pairs_left,
         min(coalesce(b.opened_at, b.created_at)) FILTER (WHERE c.state IN ('pending', 'sent')) AS waiting_since
  FROM chunks c JOIN batches b ON b.id = c.batch
  WHERE c.state IN ('pending', 'sent', 'running', 'parked') AND b.state = 'open'
  GROUP BY b.model, b.lane, b.tenant
) AS waiting
"""


def upgrade() -> None:
    _workers()
    # A migration that only expands leaves this row alone; one that contracts raises it to the oldest version it serves.
    serves = op.create_table("schema_serves", sa.Column("oldest", sa.Text, primary_key=True))
    op.bulk_insert(serves, [{"oldest": "0001"}])
    sqlite = op.get_bind().dialect.name == "sqlite"
    clock = (
        "((julianday('now') - 2440587.5) * 86400.0)"
        if sqlite
        else "extract(epoch from clock_timestamp())::double precision"
    )
    op.execute(QUEUE.format(now=clock))


def _workers() -> None:
    texts = [sa.Column(name, sa.Text, nullable=False) for name in ("device", "model", "state")]
    told_later = [sa.Column(name, sa.Text) for name in ("model_revision", "precision", "canary")]
    op.create_table(
        "workers",
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("host", "worker")),
        sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("boot", sa.Text, nullable=False),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("child_pid", sa.Integer),
        *texts,
        *told_later,
        sa.Column("canary_at", sa.Double),
        sa.Column("batch", ID),
        sa.Column("chunk", sa.Integer),
        sa.Column("chunk_since", sa.Double),
        *(sa.Column(name, sa.Integer, nullable=False, server_default=ZERO) for name in ("deaths", "recycled")),
        *(sa.Column(name, sa.BigInteger) for name in ("rss_bytes", "device_bytes")),
        sa.Column("seen_at", sa.Double, nullable=False),
    )
