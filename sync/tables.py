"""The schema of the ledger, once; `migrations/` is how a database gets there.

    users                 one row a user: balance and membership as of the last recorded transaction
    transactions          the ledger: one row for every change of a balance
    holds                 credits kept for charges to come: what each hold keeps, and what became of it
    intents               what shall be done once an application's own transaction has committed
    audit_logs            what was done and what was refused; its user need not exist
    idempotency_records   which key was used for what, until it expires
    sync_partitions       how far each partition is recorded, which worker owns it, why it is set aside
    sync_workers          which workers are alive
    dead_letters          what of the journal could not be read, kept as it came

Users, transactions, audit logs and idempotency records have the reference's fields, in snake case.
Amounts are exact decimals of six places: NUMERIC(20, 6), and in SQLite, which has no decimals, text
that reads the same.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from credits_fast.amounts import MICROS_PER_CREDIT, PLACES, to_credits
from credits_fast.json_text import JsonText

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.types import TypeEngine

__all__ = [
    "Credits",
    "Json",
    "Moment",
    "audit_logs",
    "dead_letters",
    "holds",
    "idempotency_records",
    "intents",
    "metadata",
    "micros_of",
    "reversals",
    "sync_partitions",
    "sync_workers",
    "transactions",
    "users",
]

_ID_LENGTH: Final = 256
_TRANSACTION_ID_LENGTH: Final = 64
_WORD_LENGTH: Final = 32
_DIGITS: Final = 20


class Credits(TypeDecorator[Decimal]):
    """Credits as an exact decimal of six places, on every database."""

    impl = Numeric(_DIGITS, PLACES)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Text in SQLite: its numbers are binary."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(_DIGITS + 2))
        return dialect.type_descriptor(Numeric(_DIGITS, PLACES))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """Always six places, so that equal amounts are equal text."""
        if value is None or dialect.name != "sqlite":
            return value
        return f"{value:.{PLACES}f}"

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:  # noqa: ARG002
        """Always six places, as the rest of the library shows them."""
        return None if value is None else Decimal(value) + to_credits(0)


class Moment(TypeDecorator[datetime]):
    """A moment in UTC, aware on both sides, on every database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite stores no time zone; what it stores is UTC."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(
        self,
        value: datetime | None,
        dialect: Dialect,  # noqa: ARG002
    ) -> datetime | None:
        """Aware, in UTC."""
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Json(TypeDecorator[Any]):
    """JSON; text that is JSON already (`JsonText`) goes in as it is, with its exact numbers."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """JSONB in PostgreSQL, so that metadata can be asked for and indexed."""
        return dialect.type_descriptor(JSONB() if dialect.name == "postgresql" else JSON())

    def bind_processor(self, dialect: Dialect) -> Any:
        """What is text already is not encoded again."""
        encode = super().bind_processor(dialect)

        def process(value: Any) -> Any:
            if isinstance(value, JsonText):
                return str(value)
            return encode(value) if encode else value

        return process


class micros_of(GenericFunction[int]):  # noqa: N801  # an SQL function is written like this
    """An amount as whole micro-credits, exactly."""

    type = BigInteger()
    inherit_cache = True


@compiles(micros_of, "postgresql")
def _postgresql_micros(element: micros_of, compiler: SQLCompiler, **options: Any) -> str:
    amount = compiler.process(element.clauses, **options)
    return f"CAST({amount} * {MICROS_PER_CREDIT} AS BIGINT)"


@compiles(micros_of, "sqlite")
def _sqlite_micros(element: micros_of, compiler: SQLCompiler, **options: Any) -> str:
    amount = compiler.process(element.clauses, **options)
    return f"CAST(REPLACE({amount}, '.', '') AS INTEGER)"  # text with six places each


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    },
)

_RowId: Final = BigInteger().with_variant(Integer(), "sqlite")

users = Table(
    "users",
    metadata,
    Column("id", String(_ID_LENGTH)),
    Column("credits", Credits, nullable=False, server_default="0.000000"),
    Column("reserved", Credits, nullable=False, server_default="0.000000"),
    Column("membership_tier", String(_ID_LENGTH)),
    Column("membership_expires_at", Moment),
    Column("sequence", BigInteger, nullable=False, server_default="0"),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("updated_at", Moment, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("id"),
    CheckConstraint("sequence >= 0", name="sequence_not_negative"),
)

transactions = Table(
    "transactions",
    metadata,
    Column("id", String(_TRANSACTION_ID_LENGTH)),
    Column("user_id", String(_ID_LENGTH), ForeignKey("users.id"), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("kind", String(_WORD_LENGTH), nullable=False),
    Column("action", String(_ID_LENGTH), nullable=False),
    Column("amount", Credits, nullable=False),
    Column("balance_before", Credits, nullable=False),
    Column("balance_after", Credits, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("idempotency_key", String(_ID_LENGTH)),
    Column("related_id", String(_TRANSACTION_ID_LENGTH)),
    Column("partition", Integer),
    Column("entry_epoch", BigInteger),
    Column("entry_sequence", BigInteger),
    Column("entry_item", Integer),
    Column("created_at", Moment, nullable=False),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("user_id", "sequence"),
    UniqueConstraint(
        "partition", "entry_epoch", "entry_sequence", "entry_item", name="uq_transactions_entry"
    ),
    CheckConstraint("kind IN ('charge', 'grant', 'refund', 'tier')", name="kind_known"),
    CheckConstraint("sequence > 0", name="sequence_positive"),
    CheckConstraint("balance_after = balance_before + amount", name="balances_chain").ddl_if(
        dialect="postgresql",
    ),
    CheckConstraint(
        # Text with six places each: without the point it is a whole number.
        "CAST(REPLACE(balance_after, '.', '') AS INTEGER)"
        " = CAST(REPLACE(balance_before, '.', '') AS INTEGER)"
        " + CAST(REPLACE(amount, '.', '') AS INTEGER)",
        name="balances_chain",
    ).ddl_if(dialect="sqlite"),
    Index("ix_transactions_user_id_created_at", "user_id", "created_at"),
    Index(
        "ix_transactions_related_id",
        "related_id",
        postgresql_where=text("related_id IS NOT NULL"),
        sqlite_where=text("related_id IS NOT NULL"),
    ),
)

_STATES: Final = "'reserved', 'captured', 'released', 'expired'"

holds = Table(
    "holds",
    metadata,
    Column("id", String(_TRANSACTION_ID_LENGTH)),
    Column("user_id", String(_ID_LENGTH), ForeignKey("users.id"), nullable=False),
    Column("action", String(_ID_LENGTH), nullable=False),
    Column("state", String(_WORD_LENGTH), nullable=False),
    Column("amount", Credits, nullable=False),
    Column("reserved", Credits, nullable=False),
    Column("captured", Credits, nullable=False),
    Column("tier", String(_ID_LENGTH)),
    Column("audited", Boolean, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("idempotency_key", String(_ID_LENGTH)),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("finished_at", Moment),
    Column("partition", Integer, nullable=False),
    PrimaryKeyConstraint("id"),
    CheckConstraint(f"state IN ({_STATES})", name="state_known"),
    CheckConstraint("(state = 'reserved') = (finished_at IS NULL)", name="finished_at_the_end"),
    CheckConstraint(
        "reserved >= 0 AND amount >= reserved AND captured >= 0"
        " AND (state = 'reserved' OR reserved = 0)",
        name="amounts_fit",
    ).ddl_if(dialect="postgresql"),
    CheckConstraint(
        # Text with six places each: without the point it is a whole number.
        "CAST(REPLACE(reserved, '.', '') AS INTEGER) >= 0"
        " AND CAST(REPLACE(amount, '.', '') AS INTEGER)"
        " >= CAST(REPLACE(reserved, '.', '') AS INTEGER)"
        " AND CAST(REPLACE(captured, '.', '') AS INTEGER) >= 0"
        " AND (state = 'reserved' OR CAST(REPLACE(reserved, '.', '') AS INTEGER) = 0)",
        name="amounts_fit",
    ).ddl_if(dialect="sqlite"),
    Index("ix_holds_user_id_created_at", "user_id", "created_at"),
    Index(
        "ix_holds_open_user_id",
        "user_id",
        postgresql_where=text("state = 'reserved'"),
        sqlite_where=text("state = 'reserved'"),
    ),
    Index(
        "ix_holds_open_expires_at",
        "expires_at",
        postgresql_where=text("state = 'reserved'"),
        sqlite_where=text("state = 'reserved'"),
    ),
)

intents = Table(
    "intents",
    metadata,
    Column("id", String(_TRANSACTION_ID_LENGTH)),
    Column("kind", String(_WORD_LENGTH), nullable=False),
    Column("state", String(_WORD_LENGTH), nullable=False),
    # No foreign key: an application's transaction takes no lock on rows the worker writes.
    Column("user_id", String(_ID_LENGTH), nullable=False),
    Column("action", String(_ID_LENGTH), nullable=False),
    Column("amount", Credits, nullable=False),
    Column("metadata", Json, nullable=False),
    Column("related_id", String(_TRANSACTION_ID_LENGTH)),
    Column("bounded", Boolean, nullable=False),
    Column("audited", Boolean, nullable=False),
    Column("idempotency_key", String(_ID_LENGTH)),
    Column("fingerprint", String(_WORD_LENGTH), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("problem", Text),
    Column("created_at", Moment, nullable=False, server_default=func.now()),
    Column("settled_at", Moment),
    PrimaryKeyConstraint("id"),
    CheckConstraint("kind IN ('charge', 'grant', 'refund')", name="kind_known"),
    CheckConstraint("state IN ('commit', 'aborted')", name="state_known"),
    Index(
        "ix_intents_key",
        "user_id",
        "idempotency_key",
        unique=True,
        postgresql_where=text("state = 'commit' AND idempotency_key IS NOT NULL"),
        sqlite_where=text("state = 'commit' AND idempotency_key IS NOT NULL"),
    ),
    Index(
        "ix_intents_unsettled",
        "id",
        postgresql_where=text("settled_at IS NULL"),
        sqlite_where=text("settled_at IS NULL"),
    ),
)

audit_logs = Table(
    "audit_logs",
    metadata,
    Column("id", _RowId, Identity()),
    Column("user_id", String(_ID_LENGTH), nullable=False),
    Column("action", String(_WORD_LENGTH), nullable=False),
    Column("status", String(_WORD_LENGTH), nullable=False),
    Column("metadata", Json, nullable=False),
    Column("error_code", String(_TRANSACTION_ID_LENGTH)),
    Column("error_message", Text),
    Column("transaction_id", String(_TRANSACTION_ID_LENGTH)),
    Column("created_at", Moment, nullable=False),
    PrimaryKeyConstraint("id"),
    CheckConstraint("status IN ('success', 'failed')", name="status_known"),
    Index("ix_audit_logs_user_id_created_at", "user_id", "created_at"),
)

idempotency_records = Table(
    "idempotency_records",
    metadata,
    Column("user_id", String(_ID_LENGTH)),
    Column("key", String(_ID_LENGTH)),
    Column("fingerprint", String(_WORD_LENGTH), nullable=False),
    Column("transaction_id", String(_TRANSACTION_ID_LENGTH), nullable=False),
    Column("result", Json, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=False),
    PrimaryKeyConstraint("user_id", "key"),
    Index("ix_idempotency_records_expires_at", "expires_at"),
)

reversals = Table(
    "reversals",
    metadata,
    Column("transaction_id", String(_TRANSACTION_ID_LENGTH)),
    Column("user_id", String(_ID_LENGTH), nullable=False),
    Column("key", String(_ID_LENGTH), nullable=False),
    Column("first_id", String(_TRANSACTION_ID_LENGTH), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("noted_at", Moment, nullable=False),
    Column("settled_at", Moment),
    PrimaryKeyConstraint("transaction_id"),
    Index(
        "ix_reversals_due",
        "partition",
        postgresql_where=text("settled_at IS NULL"),
        sqlite_where=text("settled_at IS NULL"),
    ),
)

sync_partitions = Table(
    "sync_partitions",
    metadata,
    Column("partition", Integer, autoincrement=False),
    Column("namespace", String(_WORD_LENGTH), nullable=False),
    Column("partitions", Integer, nullable=False),
    Column("format", String(_WORD_LENGTH), nullable=False),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("last_id", String(_TRANSACTION_ID_LENGTH), nullable=False, server_default="0-0"),
    Column("last_stamp", String(_TRANSACTION_ID_LENGTH), nullable=False, server_default=""),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("owner", String(_TRANSACTION_ID_LENGTH)),
    Column("lease_until_ms", BigInteger, nullable=False, server_default="0"),
    Column("set_aside", Text),
    Column("updated_at", Moment, nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("partition"),
    CheckConstraint("partition >= 0 AND partition < partitions", name="partition_in_range"),
)

sync_workers = Table(
    "sync_workers",
    metadata,
    Column("id", String(_TRANSACTION_ID_LENGTH)),
    Column("alive_until_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("id"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", _RowId, Identity()),
    Column("partition", Integer, nullable=False),
    Column("entry_id", String(_TRANSACTION_ID_LENGTH), nullable=False),
    Column("entry_item", Integer, nullable=False),
    Column("user_id", String(_ID_LENGTH), nullable=False),
    Column("transaction_id", String(_TRANSACTION_ID_LENGTH)),
    Column("raw", LargeBinary, nullable=False),
    Column("error", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("partition", "entry_id", "entry_item"),
)
