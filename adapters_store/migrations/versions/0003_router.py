"""What routers share: sessions, decisions, feedback, measured thresholds."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "sessions",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("adapter_id", sa.String(length=36), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_sessions")),
    )
    op.create_index("ix_sessions_updated_at", "sessions", ["updated_at"], unique=False)
    op.create_table(
        "decisions",
        sa.Column("trace", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("adapter_id", sa.String(length=36), nullable=True),
        sa.Column("description_hash", sa.String(length=32), nullable=True),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("margin", sa.Float(), nullable=True),
        sa.Column("distance", sa.Float(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("trace", name=op.f("pk_decisions")),
    )
    op.create_index("ix_decisions_at", "decisions", ["at"], unique=False)
    op.create_index("ix_decisions_tenant_at", "decisions", ["tenant", "at"], unique=False)
    op.create_table(
        "feedback",
        sa.Column("trace", sa.String(length=64), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("adapter_id", sa.String(length=36), nullable=True),
        sa.Column("rating", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("trace", name=op.f("pk_feedback")),
    )
    op.create_index(
        "ix_feedback_tenant_adapter_id", "feedback", ["tenant", "adapter_id"], unique=False
    )
    op.create_table(
        "calibrations",
        sa.Column("encoder", sa.String(length=128), nullable=False),
        sa.Column("hypernet_id", sa.String(length=128), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("margin", sa.Float(), nullable=True),
        sa.Column("verify_score", sa.Float(), nullable=True),
        sa.Column("max_distance", sa.Float(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("encoder", "hypernet_id", "tenant", name=op.f("pk_calibrations")),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("calibrations")
    op.drop_index("ix_feedback_tenant_adapter_id", table_name="feedback")
    op.drop_table("feedback")
    op.drop_index("ix_decisions_tenant_at", table_name="decisions")
    op.drop_index("ix_decisions_at", table_name="decisions")
    op.drop_table("decisions")
    op.drop_index("ix_sessions_updated_at", table_name="sessions")
    op.drop_table("sessions")
