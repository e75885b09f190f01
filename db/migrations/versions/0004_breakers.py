"""Places that pictures come from are left alone while they are away, and a batch keeps its trace. Expand only."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("traceparent", sa.Text))
    op.create_table(
        "breakers",
        *(sa.Column(name, sa.Text, primary_key=True) for name in ("host", "place")),
        *(
            sa.Column(name, sa.Integer, nullable=False, server_default=sa.text("0"))
            for name in ("failures", "openings")
        ),
        sa.Column("failed_at", sa.Double, nullable=False),
        *(sa.Column(name, sa.Double) for name in ("opened_at", "open_until", "probe_until")),
        sa.Column("reason", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
