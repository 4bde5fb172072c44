"""Why a partition is set aside, where everybody can read it, and not only in its worker's log.

Revision ID: credits_fast_0002
Revises: credits_fast_0001
Create Date: 2026-11-22
"""

import sqlalchemy as sa
from alembic import op

revision = "credits_fast_0002"
down_revision = "credits_fast_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sync_partitions", sa.Column("set_aside", sa.Text()))


def downgrade() -> None:
    op.drop_column("sync_partitions", "set_aside")
