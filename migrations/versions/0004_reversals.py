"""Reversals: transactions under a key that the ledger remembers, to be undone.

Revision ID: credits_fast_0004
Revises: credits_fast_0003
Create Date: 2026-11-23
"""

import sqlalchemy as sa
from alembic import op

revision = "credits_fast_0004"
down_revision = "credits_fast_0003"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "reversals",
        sa.Column("transaction_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(256), nullable=False),
        sa.Column("key", sa.String(256), nullable=False),
        sa.Column("first_id", sa.String(64), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("noted_at", MOMENT, nullable=False),
        sa.Column("settled_at", MOMENT),
        sa.PrimaryKeyConstraint("transaction_id", name="pk_reversals"),
    )
    op.create_index(
        "ix_reversals_due",
        "reversals",
        ["partition"],
        postgresql_where=sa.text("settled_at IS NULL"),
        sqlite_where=sa.text("settled_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("reversals")
