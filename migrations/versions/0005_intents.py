"""Intents: what shall be done once an application's own transaction has committed.

Revision ID: credits_fast_0005
Revises: credits_fast_0004
Create Date: 2026-11-23
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "credits_fast_0005"
down_revision = "credits_fast_0004"
branch_labels = None
depends_on = None

CREDITS = sa.Numeric(20, 6).with_variant(sa.String(22), "sqlite")
MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "intents",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("user_id", sa.String(256), nullable=False),
        sa.Column("action", sa.String(256), nullable=False),
        sa.Column("amount", CREDITS, nullable=False),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("related_id", sa.String(64)),
        sa.Column("bounded", sa.Boolean(), nullable=False),
        sa.Column("audited", sa.Boolean(), nullable=False),
        sa.Column("idempotency_key", sa.String(256)),
        sa.Column("fingerprint", sa.String(32), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("problem", sa.Text()),
        sa.Column("created_at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("settled_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_intents"),
        sa.CheckConstraint(
            "kind IN ('charge', 'grant', 'refund')", name=op.f("ck_intents_kind_known")
        ),
        sa.CheckConstraint("state IN ('commit', 'aborted')", name=op.f("ck_intents_state_known")),
    )
    once, open_ = "state = 'commit' AND idempotency_key IS NOT NULL", "settled_at IS NULL"
    op.create_index(
        "ix_intents_key",
        "intents",
        ["user_id", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text(once),
        sqlite_where=sa.text(once),
    )
    op.create_index(
        "ix_intents_unsettled",
        "intents",
        ["id"],
        postgresql_where=sa.text(open_),
        sqlite_where=sa.text(open_),
    )


def downgrade() -> None:
    op.drop_table("intents")
