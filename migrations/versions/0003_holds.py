"""Holds: credits kept for charges to come.

Revision ID: credits_fast_0003
Revises: credits_fast_0002
Create Date: 2026-11-23
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "credits_fast_0003"
down_revision = "credits_fast_0002"
branch_labels = None
depends_on = None

CREDITS = sa.Numeric(20, 6).with_variant(sa.String(22), "sqlite")
MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "holds",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(256), nullable=False),
        sa.Column("action", sa.String(256), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("amount", CREDITS, nullable=False),
        sa.Column("reserved", CREDITS, nullable=False),
        sa.Column("captured", CREDITS, nullable=False),
        sa.Column("tier", sa.String(256)),
        sa.Column("audited", sa.Boolean(), nullable=False),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("idempotency_key", sa.String(256)),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("finished_at", MOMENT),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_holds"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_holds_user_id"),
        sa.CheckConstraint(
            "state IN ('reserved', 'captured', 'released', 'expired')",
            name=op.f("ck_holds_state_known"),
        ),
        sa.CheckConstraint(
            "(state = 'reserved') = (finished_at IS NULL)",
            name=op.f("ck_holds_finished_at_the_end"),
        ),
        sa.CheckConstraint(_amounts_fit(), name=op.f("ck_holds_amounts_fit")),
    )
    op.create_index("ix_holds_user_id_created_at", "holds", ["user_id", "created_at"])
    for column in ("user_id", "expires_at"):
        op.create_index(
            f"ix_holds_open_{column}",
            "holds",
            [column],
            postgresql_where=sa.text("state = 'reserved'"),
            sqlite_where=sa.text("state = 'reserved'"),
        )


def downgrade() -> None:
    op.drop_table("holds")


def _amounts_fit() -> str:
    if op.get_bind().dialect.name == "sqlite":
        return (
            "CAST(REPLACE(reserved, '.', '') AS INTEGER) >= 0"
            " AND CAST(REPLACE(amount, '.', '') AS INTEGER)"
            " >= CAST(REPLACE(reserved, '.', '') AS INTEGER)"
            " AND CAST(REPLACE(captured, '.', '') AS INTEGER) >= 0"
            " AND (state = 'reserved' OR CAST(REPLACE(reserved, '.', '') AS INTEGER) = 0)"
        )
    return (
        "reserved >= 0 AND amount >= reserved AND captured >= 0"
        " AND (state = 'reserved' OR reserved = 0)"
    )
