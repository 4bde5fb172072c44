"""What the engine asks of SQL: an account to load, a user to create, a page of history."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, bindparam, func, insert, select, union_all
from sqlalchemy.exc import IntegrityError

from credits_fast.amounts import to_credits, to_micros
from credits_fast.errors import InvalidArgumentError
from credits_fast.json_text import JsonText, merged
from credits_fast.ledger.database import reading, writing
from credits_fast.protocol.hold_wire import OpenHold
from credits_fast.protocol.wire import to_ms
from credits_fast.sync.tables import (
    audit_logs,
    holds,
    idempotency_records,
    micros_of,
    sync_partitions,
    transactions,
    users,
)
from credits_fast.types import AuditEntry, HistoryPage, Transaction

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy import ColumnElement, Row
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = [
    "PAGE_MAX",
    "AccountRow",
    "CaptureRow",
    "ChargeRow",
    "HoldStateRow",
    "NewUser",
    "Records",
    "audit_entry_of",
    "transaction_of",
]

PAGE_MAX: Final = 1_000
"""Rows of a page of history at most."""

_BIGINT_MAX: Final = 2**63 - 1
"""The largest whole number that databases take."""

_ACCOUNT: Final = (
    select(
        users.c.credits,
        users.c.reserved.label("user_reserved"),
        users.c.sequence,
        users.c.membership_tier,
        users.c.membership_expires_at,
        holds,
    )
    .select_from(users)
    .outerjoin(holds, and_(holds.c.user_id == users.c.id, holds.c.state == "reserved"))
    .where(users.c.id == bindparam("user"))
)


@dataclass(frozen=True, slots=True)
class AccountRow:
    """A user as the ledger has it, with the holds that are open; amounts in micro-credits."""

    balance: int
    reserved: int
    sequence: int
    tier: str | None
    expires_at: datetime | None
    holds: tuple[OpenHold, ...] = ()


@dataclass(frozen=True, slots=True)
class HoldStateRow:
    """What the ledger knows of a hold, and as of which journal entry.

    Attributes:
        state: What it is, None where the ledger does not know it.
        last_id: The last entry of the partition's journal that the ledger holds.
    """

    state: str | None
    last_id: str


@dataclass(frozen=True, slots=True)
class CaptureRow:
    """What the ledger knows of a capture, in micro-credits.

    Attributes:
        cost: What it took.
        balance_after: What it left.
        tier: The tier whose price its hold was made for, "" for none.
    """

    cost: int
    balance_after: int
    tier: str


@dataclass(frozen=True, slots=True)
class ChargeRow:
    """What the ledger knows of a charge, in micro-credits, and as of which journal entry.

    Attributes:
        charged: What it took, None where the ledger does not know it.
        refunded: The sum of the refunds that name it.
        last_id: The last entry of the partition's journal that the ledger holds.
    """

    charged: int | None
    refunded: int
    last_id: str


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user to create, with the transaction of the first credits where there are any."""

    user_id: str
    micros: int
    tier: str | None
    expires_at: datetime | None
    operation_id: str
    key: str
    fingerprint: str
    metadata: str
    result: JsonText
    audited: bool
    created_at: datetime
    key_expires_at: datetime


@dataclass(frozen=True, slots=True)
class RememberedKey:
    """What the ledger remembers of an idempotency key."""

    fingerprint: str
    transaction_id: str
    result: dict[str, Any]
    expires_at: datetime


class Records:
    """Reads and writes of one ledger."""

    def __init__(self, database: AsyncEngine) -> None:
        self._database = database

    async def account(self, user_id: str) -> AccountRow | None:
        """The account and its open holds, None where the ledger does not know the user.

        One statement, so that the two are of one moment.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        async with reading(self._database) as connection:
            rows = (await connection.execute(_ACCOUNT, {"user": user_id})).all()
        if not rows:
            return None
        row = rows[0]
        return AccountRow(
            _micros(row.credits),
            _micros(row.user_reserved),
            row.sequence,
            row.membership_tier,
            row.membership_expires_at,
            tuple(_open_hold(one) for one in rows if one.id is not None),
        )

    async def hold(self, user_id: str, hold_id: str, partition: int) -> HoldStateRow:
        """What became of a hold, as one snapshot with the partition's position.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        state = select(holds.c.state).where(holds.c.id == hold_id, holds.c.user_id == user_id)
        query = select(state.scalar_subquery().label("state"), sync_partitions.c.last_id)
        async with reading(self._database) as connection:
            found = await connection.execute(query.where(sync_partitions.c.partition == partition))
            row = found.one()
        return HoldStateRow(row.state, row.last_id)

    async def capture(self, transaction_id: str, hold_id: str) -> CaptureRow | None:
        """A capture of a hold, None where the ledger does not have it.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        taken, left = micros_of(transactions.c.amount), micros_of(transactions.c.balance_after)
        tier = select(holds.c.tier).where(holds.c.id == hold_id).scalar_subquery()
        query = select(taken, left, tier).where(transactions.c.id == transaction_id)
        async with reading(self._database) as connection:
            row = (await connection.execute(query)).one_or_none()
        return None if row is None else CaptureRow(-row[0], row[1], row[2] or "")

    async def overdue_holds(
        self, partitions: Collection[int], now: datetime, *, most: int
    ) -> dict[int, dict[str, list[str]]]:
        """Holds that are open and over, by partition and user, those first that wait longest.

        Every partition has its turn, and in it every user: one that cannot finish any keeps no other
        waiting.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        columns = holds.c
        of_user = func.row_number().over(
            partition_by=columns.user_id, order_by=(columns.expires_at, columns.id)
        )
        over = (
            select(
                columns.partition,
                columns.user_id,
                columns.id,
                columns.expires_at,
                of_user.label("of_user"),
            )
            .where(
                columns.state == "reserved",
                columns.expires_at < now,
                columns.partition.in_(partitions),
            )
            .subquery()
            .c
        )
        turn = func.row_number().over(
            partition_by=over.partition, order_by=(over.of_user, over.expires_at, over.id)
        )
        query = (
            select(over.partition, over.user_id, over.id).order_by(turn, over.partition).limit(most)
        )
        found: dict[int, dict[str, list[str]]] = {}
        async with reading(self._database) as connection:
            for row in await connection.execute(query):
                found.setdefault(row.partition, {}).setdefault(row.user_id, []).append(row.id)
        return found

    async def charge(self, user_id: str, transaction_id: str, partition: int) -> ChargeRow:
        """A charge and its refunds, as one snapshot with the partition's position.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        amount = micros_of(transactions.c.amount)
        charged = select(amount).where(
            transactions.c.id == transaction_id,
            transactions.c.user_id == user_id,
            transactions.c.kind == "charge",
        )
        refunded = select(func.coalesce(func.sum(amount), 0)).where(
            transactions.c.related_id == transaction_id,
        )
        query = select(
            charged.scalar_subquery().label("charged"),
            refunded.scalar_subquery().label("refunded"),
            sync_partitions.c.last_id,
        ).where(sync_partitions.c.partition == partition)
        async with reading(self._database) as connection:
            row = (await connection.execute(query)).one()
        taken = None if row.charged is None else -int(row.charged)
        return ChargeRow(taken, int(row.refunded), row.last_id)

    async def known(self, ids: Collection[str]) -> set[str]:
        """Those of these transactions and holds that the ledger has.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        query = union_all(
            select(transactions.c.id).where(transactions.c.id.in_(ids)),
            select(holds.c.id).where(holds.c.id.in_(ids)),
        )
        async with reading(self._database) as connection:
            return {*await connection.scalars(query)}

    async def last_id(self, partition: int) -> str:
        """The last entry of the partition's journal that the ledger holds.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        position = sync_partitions.c
        async with reading(self._database) as connection:
            found = await connection.execute(
                select(position.last_id).where(position.partition == partition)
            )
            return str(found.scalar_one())

    async def create_user(self, user: NewUser) -> bool:
        """Whether the user was created: False where the id is taken. One commit, or nothing.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        try:
            async with writing(self._database) as connection:
                for statement, values in _creation(user):
                    await connection.execute(statement, values)
        except IntegrityError:
            return False
        return True

    async def was_created(self, user: NewUser) -> bool:
        """Whether this very call created the user: its commit may have been answered too late.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        row = await self._one(select(users.c.created_at).where(users.c.id == user.user_id))
        return row is not None and row.created_at == user.created_at

    async def remembered(self, user_id: str, key: str) -> RememberedKey | None:
        """What the ledger remembers of a key, None where it does not know it.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        record = idempotency_records.c
        row = await self._one(
            select(
                record.fingerprint,
                record.transaction_id,
                record.result,
                record.expires_at,
            ).where(record.user_id == user_id, record.key == key),
        )
        if row is None:
            return None
        return RememberedKey(row.fingerprint, row.transaction_id, row.result, row.expires_at)

    async def history(
        self,
        user_id: str,
        *,
        limit: int,
        offset: int = 0,
        cursor: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        action: str | None = None,
    ) -> HistoryPage:
        """A page of the ledger, newest first; the order is the user's own sequence.

        Raises:
            InvalidArgumentError: The page cannot be given.
            DatabaseUnavailableError: The database cannot be reached.
        """
        if not 0 <= limit <= PAGE_MAX:
            raise InvalidArgumentError("limit", f"must be 0 to {PAGE_MAX}, not {limit}")
        if not 0 <= offset <= _BIGINT_MAX:
            problem = "must not be negative" if offset < 0 else f"must be at most {_BIGINT_MAX}"
            raise InvalidArgumentError("offset", f"{problem}, not {offset}")
        if limit == 0:
            return HistoryPage((), None)
        rows = transactions.c
        conditions: list[ColumnElement[bool]] = [rows.user_id == user_id]
        if cursor is not None:
            conditions.append(rows.sequence < _sequence(cursor))
        if start_date is not None:
            conditions.append(rows.created_at >= start_date)
        if end_date is not None:
            conditions.append(rows.created_at <= end_date)
        if action:
            conditions.append(rows.action == action)
        query = (
            select(transactions)
            .where(and_(*conditions))
            .order_by(rows.sequence.desc())
            .limit(limit + 1)
            .offset(offset)
        )
        async with reading(self._database) as connection:
            found = [transaction_of(row) for row in await connection.execute(query)]
        page = tuple(found[:limit])
        return HistoryPage(page, str(page[-1].sequence) if len(found) > limit else None)

    async def audit(self, user_id: str, *, limit: int = 100) -> list[AuditEntry]:
        """The newest rows of the audit log about a user, newest first.

        Raises:
            InvalidArgumentError: So many cannot be given.
            DatabaseUnavailableError: The database cannot be reached.
        """
        if not 1 <= limit <= PAGE_MAX:
            raise InvalidArgumentError("limit", f"must be 1 to {PAGE_MAX}, not {limit}")
        query = (
            select(audit_logs)
            .where(audit_logs.c.user_id == user_id)
            .order_by(audit_logs.c.created_at.desc(), audit_logs.c.id.desc())
            .limit(limit)
        )
        async with reading(self._database) as connection:
            return [audit_entry_of(row) for row in await connection.execute(query)]

    async def _one(self, query: Any) -> Row[Any] | None:
        async with reading(self._database) as connection:
            return (await connection.execute(query)).one_or_none()


def _open_hold(row: Row[Any]) -> OpenHold:
    return OpenHold(
        row.id,
        _micros(row.amount),
        _micros(row.reserved),
        _micros(row.captured),
        to_ms(row.expires_at),
        row.audited,
        row.tier or "",
    )


def _micros(credits_: Decimal) -> int:
    return to_micros(credits_, argument="ledger", minimum=-(10**18))


def _sequence(cursor: str) -> int:
    problem = "is not a cursor of this history"
    try:
        sequence = int(cursor)
    except ValueError as error:
        raise InvalidArgumentError("cursor", problem) from error
    if not 0 <= sequence <= _BIGINT_MAX:
        raise InvalidArgumentError("cursor", problem)
    return sequence


def transaction_of(row: Row[Any]) -> Transaction:
    """A row of `transactions` as callers see it."""
    return Transaction(
        id=row.id,
        user_id=row.user_id,
        kind=row.kind,
        action=row.action,
        amount=row.amount,
        balance_before=row.balance_before,
        balance_after=row.balance_after,
        sequence=row.sequence,
        metadata=row.metadata,
        idempotency_key=row.idempotency_key,
        related_id=row.related_id,
        created_at=row.created_at,
    )


def audit_entry_of(row: Row[Any]) -> AuditEntry:
    """A row of `audit_logs` as callers see it."""
    return AuditEntry(
        user_id=row.user_id,
        action=row.action,
        status=row.status,
        metadata=row.metadata,
        error_code=row.error_code,
        error_message=row.error_message,
        transaction_id=row.transaction_id,
        created_at=row.created_at,
    )


def _creation(user: NewUser) -> list[tuple[Any, dict[str, Any]]]:
    """The rows of a new user, in an order the foreign keys allow."""
    rows: list[tuple[Any, dict[str, Any]]] = [
        (
            insert(users),
            {
                "id": user.user_id,
                "credits": to_credits(user.micros),
                "membership_tier": user.tier,
                "membership_expires_at": user.expires_at,
                "sequence": 1 if user.micros else 0,
                "created_at": user.created_at,
                "updated_at": user.created_at,
            },
        ),
    ]
    if user.micros:
        rows.append((insert(transactions), _first_credits(user)))
    if user.audited:
        rows.append(
            (
                insert(audit_logs),
                {
                    "user_id": user.user_id,
                    "action": "createUser",
                    "status": "success",
                    "metadata": merged(user.metadata, user.result),
                    "transaction_id": user.operation_id if user.micros else None,
                    "created_at": user.created_at,
                },
            ),
        )
    if user.key:
        rows.append(
            (
                insert(idempotency_records),
                {
                    "user_id": user.user_id,
                    "key": user.key,
                    "fingerprint": user.fingerprint,
                    "transaction_id": user.operation_id,
                    "result": user.result,
                    "created_at": user.created_at,
                    "expires_at": user.key_expires_at,
                },
            ),
        )
    return rows


def _first_credits(user: NewUser) -> dict[str, Any]:
    return {
        "id": user.operation_id,
        "user_id": user.user_id,
        "sequence": 1,
        "kind": "grant",
        "action": "create-user",
        "amount": to_credits(user.micros),
        "balance_before": to_credits(0),
        "balance_after": to_credits(user.micros),
        "metadata": JsonText(user.metadata or "{}"),
        "idempotency_key": user.key or None,
        "created_at": user.created_at,
    }
