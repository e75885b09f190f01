"""Failures can be retried, deaths remember what was in hand, and the feed ranks what it sends. Expand only."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TEXTS = (
    "failure_code",
    "failure_detail",
    "flags",
    "model",
    "model_revision",
    "engine",
    "precision",
    "device",
    "worker",
)
"""What history keeps of a failure, besides the picture's hash, the attempt and the times."""


def upgrade() -> None:
    for column in (
        sa.Column("rank", sa.SmallInteger),
        sa.Column("hand_first", ID),
        sa.Column("hand_last", ID),
        sa.Column("keeper_pid", sa.Integer),
        sa.Column("keeper_started", sa.BigInteger),
    ):
        op.add_column("chunks", column)
    op.add_column("suspects", sa.Column("slot", sa.Text))
    op.add_column("suspects", sa.Column("died_at", sa.Double))
    op.create_table(
        "retries",
        *_pair(),
        sa.Column("chunk", sa.Integer, nullable=False),
        sa.Column("asked_at", sa.Double, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "failure_history",
        *_pair(),
        sa.Column("replaced_at", sa.Double, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in TEXTS),
        sa.Column("image_sha256", sa.Text),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("judged_at", sa.Double, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "feed_credit",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("pairs", sa.Double, nullable=False),
        sqlite_with_rowid=False,
    )
    _view()


def _pair() -> list[sa.Column[int]]:
    batch = sa.Column("batch", ID, sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True)
    return [batch, sa.Column("row", ID, primary_key=True)]


def _view() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"

    def shown(name: str) -> str:
        moment = f"strftime('%Y-%m-%dT%H:%M:%fZ', h.{name}, 'unixepoch')" if sqlite else f"to_timestamp(h.{name})"
        return f"{moment} AS {name}"

    pair = "h.batch, b.name AS batch_name, h.row, p.id, p.image, p.caption, p.premise, p.extra"
    what = ", ".join(f"h.{name}" for name in (*TEXTS, "image_sha256", "attempt"))
    joined = (
        "FROM failure_history h JOIN pairs p ON p.batch = h.batch AND p.row = h.row JOIN batches b ON b.id = h.batch"
    )
    times = f"{shown('judged_at')}, {shown('replaced_at')}"
    op.execute(f"CREATE VIEW replaced_failures AS SELECT {pair}, {what}, {times} {joined}")
