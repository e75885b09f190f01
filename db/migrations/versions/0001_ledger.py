"""The ledger: batches, chunks, pairs, outcomes, suspects, judgements, and the public views."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
ZERO = sa.text("0")


def upgrade() -> None:
    _batches()
    _chunks()
    _pairs()
    _outcomes()
    op.create_table(
        "suspects", _batch(), sa.Column("row", ID, primary_key=True), sa.Column("deaths", sa.Integer, nullable=False)
    )
    op.create_table(
        "judgements",
        sa.Column("content_key", sa.Text, primary_key=True),
        *(sa.Column(name, sa.Double, nullable=False) for name in ("p_yes", "p_no", "p_maybe", "created_at")),
        sqlite_with_rowid=False,
    )
    _views()


def _batch() -> sa.Column[int]:
    return sa.Column("batch", ID, sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True)


def _text(*names: str, nullable: bool) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=nullable) for name in names]


def _batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", ID, primary_key=True),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        *_text("name", "tenant", "lane", nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        *_text("model", "policy", "image_root", nullable=False),
        sa.Column("wire_version", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("opened_at", sa.Double),
        sa.Column("cancelled_at", sa.Double),
        sqlite_autoincrement=True,
    )


def _chunks() -> None:
    op.create_table(
        "chunks",
        _batch(),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("first_row", ID, nullable=False),
        sa.Column("last_row", ID, nullable=False),
        sa.Column("pairs", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("sent_at", sa.Double),
        *(sa.Column(name, sa.Integer, nullable=False, server_default=ZERO) for name in ("sends", "attempts", "deaths")),
        sa.Column("marker_row", ID),
        *_text("marker_stage", "token", "provenance", "holder_host", "holder_boot", nullable=True),
        sa.Column("holder_pid", sa.Integer),
        sa.Column("holder_started", sa.BigInteger),
        *(sa.Column(name, sa.Double) for name in ("lease_until", "claimed_at", "done_at")),
        *(
            sa.Column(name, sa.Integer, nullable=False, server_default=ZERO)
            for name in ("yes", "no", "maybe", "failed", "flagged", "fenced")
        ),
    )
    op.create_index("chunks_by_state", "chunks", ["state", "batch", "number"])


def _pairs() -> None:
    op.create_table(
        "pairs",
        _batch(),
        sa.Column("row", ID, primary_key=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("conflict", sa.Integer, nullable=False, server_default=ZERO),
        *_text("image", "caption", nullable=False),
        *_text("premise", "extra", "raw", nullable=True),
        sqlite_with_rowid=False,
    )
    op.create_index("pairs_by_id", "pairs", ["batch", "id", "conflict"], unique=True)


def _outcomes() -> None:
    op.create_table(
        "outcomes",
        _batch(),
        sa.Column("row", ID, primary_key=True),
        sa.Column("label", sa.Text),
        *(sa.Column(name, sa.Double) for name in ("p_yes", "p_no", "p_maybe")),
        *_text("failure_code", "failure_detail", nullable=True),
        sa.Column("flagged", sa.Boolean, nullable=False),
        sa.Column("flags", sa.Text, nullable=False),
        *_text("image_sha256", "content_key", nullable=True),
        sa.Column("cached", sa.Boolean, nullable=False),
        *_text("model", "model_revision", "engine", "precision", "device", "worker", nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Double) for name in ("decode_ms", "model_ms")),
        sa.Column("trace_id", sa.Text),
        sa.Column("judged_at", sa.Double, nullable=False),
        sa.CheckConstraint(
            # A comparison with NULL is neither true nor false, and a CHECK lets it pass: hence every IS NOT NULL.
            "(label IS NOT NULL AND label IN ('Yes', 'No', 'Maybe')"
            " AND p_yes IS NOT NULL AND p_no IS NOT NULL AND p_maybe IS NOT NULL"
            " AND failure_code IS NULL AND failure_detail IS NULL)"
            " OR (label IS NULL AND p_yes IS NULL AND p_no IS NULL AND p_maybe IS NULL"
            " AND failure_code IS NOT NULL AND failure_detail IS NOT NULL AND NOT flagged)",
            name="verdict_or_failure",
        ),
        sa.CheckConstraint(
            "label IS NULL OR (p_yes >= 0 AND p_no >= 0 AND p_maybe >= 0 AND abs(p_yes + p_no + p_maybe - 1) < 0.001)",
            name="scores_sum_to_one",
        ),
        sqlite_with_rowid=False,
    )


def _views() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    judged_at = "strftime('%Y-%m-%dT%H:%M:%fZ', o.judged_at, 'unixepoch')" if sqlite else "to_timestamp(o.judged_at)"
    pair = "o.batch, b.name AS batch_name, o.row, p.id, p.image, p.caption, p.premise, p.extra"
    how = (
        "o.image_sha256, o.cached, o.model, o.model_revision, o.engine, o.precision, o.device, o.worker, o.attempt,"
        f" o.decode_ms, o.model_ms, {judged_at} AS judged_at"
    )
    joined = "FROM outcomes o JOIN pairs p ON p.batch = o.batch AND p.row = o.row JOIN batches b ON b.id = o.batch"
    verdict = f"SELECT {pair}, o.label, o.p_yes, o.p_no, o.p_maybe, o.flagged, o.flags, {how} {joined}"
    op.execute(f"CREATE VIEW verdicts AS {verdict} WHERE o.label IS NOT NULL")
    op.execute(f"CREATE VIEW flagged_mismatches AS {verdict} WHERE o.label IS NOT NULL AND o.flagged")
    op.execute(
        f"CREATE VIEW failures AS SELECT {pair}, o.failure_code, o.failure_detail, o.flags, {how} {joined}"
        " WHERE o.label IS NULL"
    )
