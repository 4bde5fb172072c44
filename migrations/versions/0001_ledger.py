"""The ledger: users, transactions, audit logs, idempotency records, and the worker's own tables.

Revision ID: credits_fast_0001
Revises:
Create Date: 2026-11-22
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "credits_fast_0001"
down_revision = None
branch_labels = ("credits_fast",)
depends_on = None

CREDITS = sa.Numeric(20, 6).with_variant(sa.String(22), "sqlite")
MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(JSONB(), "postgresql")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _create_users()
    _create_transactions()
    _create_audit_logs()
    _create_idempotency_records()
    _create_worker_tables()


def downgrade() -> None:
    for table in (
        "dead_letters",
        "sync_workers",
        "sync_partitions",
        "idempotency_records",
        "audit_logs",
        "transactions",
        "users",
    ):
        op.drop_table(table)


def _create_users() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String(256), nullable=False),
        sa.Column("credits", CREDITS, nullable=False, server_default="0.000000"),
        sa.Column("reserved", CREDITS, nullable=False, server_default="0.000000"),
        sa.Column("membership_tier", sa.String(256)),
        sa.Column("membership_expires_at", MOMENT),
        sa.Column("sequence", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("created_at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.Column("updated_at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.CheckConstraint("sequence >= 0", name=op.f("ck_users_sequence_not_negative")),
    )


def _create_transactions() -> None:
    if op.get_bind().dialect.name == "sqlite":
        chain = (
            "CAST(REPLACE(balance_after, '.', '') AS INTEGER)"
            " = CAST(REPLACE(balance_before, '.', '') AS INTEGER)"
            " + CAST(REPLACE(amount, '.', '') AS INTEGER)"
        )
    else:
        chain = "balance_after = balance_before + amount"
    op.create_table(
        "transactions",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(256), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("action", sa.String(256), nullable=False),
        sa.Column("amount", CREDITS, nullable=False),
        sa.Column("balance_before", CREDITS, nullable=False),
        sa.Column("balance_after", CREDITS, nullable=False),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("idempotency_key", sa.String(256)),
        sa.Column("related_id", sa.String(64)),
        sa.Column("partition", sa.Integer()),
        sa.Column("entry_epoch", sa.BigInteger()),
        sa.Column("entry_sequence", sa.BigInteger()),
        sa.Column("entry_item", sa.Integer()),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_transactions"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_transactions_user_id"),
        sa.UniqueConstraint("user_id", "sequence", name="uq_transactions_user_id_sequence"),
        sa.UniqueConstraint(
            "partition",
            "entry_epoch",
            "entry_sequence",
            "entry_item",
            name="uq_transactions_entry",
        ),
        sa.CheckConstraint(
            "kind IN ('charge', 'grant', 'refund', 'tier')",
            name=op.f("ck_transactions_kind_known"),
        ),
        sa.CheckConstraint("sequence > 0", name=op.f("ck_transactions_sequence_positive")),
        sa.CheckConstraint(chain, name=op.f("ck_transactions_balances_chain")),
    )
    op.create_index(
        "ix_transactions_user_id_created_at",
        "transactions",
        ["user_id", "created_at"],
    )
    op.create_index(
        "ix_transactions_related_id",
        "transactions",
        ["related_id"],
        postgresql_where=sa.text("related_id IS NOT NULL"),
        sqlite_where=sa.text("related_id IS NOT NULL"),
    )


def _create_audit_logs() -> None:
    op.create_table(
        "audit_logs",
        sa.Column("id", ROW_ID, sa.Identity(), nullable=False),
        sa.Column("user_id", sa.String(256), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.Text()),
        sa.Column("transaction_id", sa.String(64)),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_logs"),
        sa.CheckConstraint(
            "status IN ('success', 'failed')",
            name=op.f("ck_audit_logs_status_known"),
        ),
    )
    op.create_index("ix_audit_logs_user_id_created_at", "audit_logs", ["user_id", "created_at"])


def _create_idempotency_records() -> None:
    op.create_table(
        "idempotency_records",
        sa.Column("user_id", sa.String(256), nullable=False),
        sa.Column("key", sa.String(256), nullable=False),
        sa.Column("fingerprint", sa.String(32), nullable=False),
        sa.Column("transaction_id", sa.String(64), nullable=False),
        sa.Column("result", JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "key", name="pk_idempotency_records"),
    )
    op.create_index("ix_idempotency_records_expires_at", "idempotency_records", ["expires_at"])


def _create_worker_tables() -> None:
    op.create_table(
        "sync_partitions",
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("namespace", sa.String(32), nullable=False),
        sa.Column("partitions", sa.Integer(), nullable=False),
        sa.Column("format", sa.String(32), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("last_id", sa.String(64), nullable=False, server_default="0-0"),
        sa.Column("last_stamp", sa.String(64), nullable=False, server_default=""),
        sa.Column("fence", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("owner", sa.String(64)),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("updated_at", MOMENT, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("partition", name="pk_sync_partitions"),
        sa.CheckConstraint(
            "partition >= 0 AND partition < partitions",
            name=op.f("ck_sync_partitions_partition_in_range"),
        ),
    )
    op.create_table(
        "sync_workers",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("alive_until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sync_workers"),
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", ROW_ID, sa.Identity(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("entry_id", sa.String(64), nullable=False),
        sa.Column("entry_item", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.String(256), nullable=False),
        sa.Column("transaction_id", sa.String(64)),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dead_letters"),
        sa.UniqueConstraint(
            "partition",
            "entry_id",
            "entry_item",
            name="uq_dead_letters_partition_entry_id_entry_item",
        ),
    )
