"""Do the sums agree? The ledger with itself, and Redis with the ledger, exactly.

What was granted and refunded, less what was charged, plus what changes of tier did, is what the users
have, user by user; what a user has reserved is what the open holds keep. Sums are taken in whole
micro-credits, on every database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ColumnElement, and_, func, select

from credits_fast.amounts import to_credits
from credits_fast.calls.open_holds import open_holds
from credits_fast.checks.held import held_accounts
from credits_fast.ledger.database import reading, snapshot
from credits_fast.sync.tables import audit_logs, holds, micros_of, transactions, users

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from credits_fast.checks.held import Held
    from credits_fast.protocol.keys import Partitions
    from credits_fast.servers.routing import Router

__all__ = ["BalanceSheet", "RedisComparison", "balance_sheet", "compare_redis"]

_LOOKS_AT_ONCE: Final = 1_000
_BROKEN_MAX: Final = 1_000
"""Broken steps that are named at most; one is enough to say that the ledger is wrong."""


@dataclass(frozen=True, slots=True)
class BalanceSheet:
    """The ledger summed up; amounts in credits.

    Attributes:
        opening: What users had before their first transaction, such as rows of an older system.
        granted: By transactions of kind `grant`.
        refunded: By transactions of kind `refund`.
        charged: By transactions of kind `charge`; a positive number.
        tier_changes: By transactions of kind `tier`, of either sign.
        balances: What all users have.
        users: How many users there are.
        transactions: How many transactions there are.
        audit_entries: How many rows the audit log has.
        differing: Users whose balance is not what their transactions make it, whose sequence has a
            gap, one of whose transactions does not begin where the one before it ended, or who have not
            reserved what their holds keep, each with what is wrong.
        drift: The sum of the absolute differences.
        reserved: What open holds keep of the balances.
    """

    opening: Decimal
    granted: Decimal
    refunded: Decimal
    charged: Decimal
    tier_changes: Decimal
    balances: Decimal
    users: int
    transactions: int
    audit_entries: int
    differing: dict[str, str] = field(default_factory=dict[str, str])
    drift: Decimal = Decimal(0)
    reserved: Decimal = Decimal(0)

    @property
    def conserves(self) -> bool:
        """Whether no credit came from nowhere or went nowhere."""
        made = self.opening + self.granted + self.refunded - self.charged + self.tier_changes
        return made == self.balances and not self.differing


@dataclass(frozen=True, slots=True)
class RedisComparison:
    """Redis beside the ledger, user by user.

    Attributes:
        users: Users of the ledger.
        compared: How many of them Redis knows; the others are cold and are loaded from the ledger.
        differing: Users with another balance, other holds or another sequence, each with what is wrong.
        drift: The sum of the absolute differences of balances, in credits.
    """

    users: int
    compared: int
    differing: dict[str, str] = field(default_factory=dict[str, str])
    drift: Decimal = Decimal(0)


async def balance_sheet(database: AsyncEngine) -> BalanceSheet:
    """The ledger summed up, all of it as of one moment: the worker may go on writing.

    Raises:
        DatabaseUnavailableError: The database cannot be reached.
    """
    async with snapshot(database) as connection:
        kinds = await _sums_by_kind(connection)
        rows = (await connection.execute(_USERS)).all()
        broken = (await connection.execute(_BROKEN)).all()
        audit = await connection.scalar(select(func.count()).select_from(audit_logs))
    wrong = {row.user_id: _broken(row) for row in reversed(broken)}
    wrong |= {row.id: problem for row in rows if (problem := _problem(row))}
    return BalanceSheet(
        opening=to_credits(sum(_opening(row) for row in rows)),
        granted=to_credits(kinds.get("grant", (0, 0))[0]),
        refunded=to_credits(kinds.get("refund", (0, 0))[0]),
        charged=to_credits(-kinds.get("charge", (0, 0))[0]),
        tier_changes=to_credits(kinds.get("tier", (0, 0))[0]),
        balances=to_credits(sum(row.balance for row in rows)),
        reserved=to_credits(sum(int(row.kept or 0) for row in rows)),
        users=len(rows),
        transactions=sum(number for _, number in kinds.values()),
        audit_entries=int(audit or 0),
        differing=wrong,
        drift=to_credits(sum(abs(_drift(row)) for row in rows)),
    )


async def compare_redis(
    database: AsyncEngine,
    router: Router,
    partitions: Partitions,
) -> RedisComparison:
    """Redis beside the ledger, user by user.

    Call it when nothing is under way and everything is recorded: it compares two stores one after the
    other, where `verification` compares them while charges go on. A user whom Redis does not know is
    cold, and agrees with the ledger by being loaded from it.

    Raises:
        DatabaseUnavailableError: The database cannot be reached.
        RedisUnavailableError: Redis cannot be reached.
    """
    recorded, kept = await _recorded(database)
    there = await _open_holds(router, partitions)
    compared = drift = 0
    differing: dict[str, str] = {}
    warm: set[str] = set()
    for start in range(0, len(recorded), _LOOKS_AT_ONCE):
        rows = recorded[start : start + _LOOKS_AT_ONCE]
        accounts = await held_accounts(router, partitions, [row.id for row in rows])
        for row, held in zip(rows, accounts, strict=True):
            if held is None:
                continue
            compared += 1
            warm.add(row.id)
            drift += abs(held.balance - row.balance)
            problem = (
                held.problem
                or _difference(held, row)
                or _difference_of_holds(held, there.get(row.id, {}), kept.get(row.id, {}))
            )
            if problem:
                differing[row.id] = problem
    for user in there.keys() - warm:
        differing[user] = f"Redis has holds without an account: {there[user]}"
    return RedisComparison(len(recorded), compared, differing, to_credits(drift))


async def _recorded(
    database: AsyncEngine,
) -> tuple[Sequence[Any], dict[str, dict[str, int]]]:
    """Users, and what each of their open holds keeps."""
    query = select(
        users.c.id,
        micros_of(users.c.credits).label("balance"),
        micros_of(users.c.reserved).label("reserved"),
        users.c.sequence,
    )
    opened = select(holds.c.user_id, holds.c.id, micros_of(holds.c.reserved)).where(
        holds.c.state == "reserved"
    )
    kept: dict[str, dict[str, int]] = {}
    async with reading(database) as connection:
        rows = (await connection.execute(query)).all()
        for user, hold, amount in await connection.execute(opened):
            kept.setdefault(user, {})[hold] = int(amount)
    return rows, kept


async def _open_holds(router: Router, partitions: Partitions) -> dict[str, dict[str, int]]:
    """What each open hold of the users keeps, as Redis has it."""
    found: dict[str, dict[str, int]] = {}
    for partition in partitions:
        for user, of_user in (
            await open_holds(partial(router.execute, partition), partition)
        ).items():
            found[user] = {one.hold_id: one.reserved for one in of_user.values()}
    return found


def _difference(account: Held, row: Any) -> str:
    there = (account.balance, account.reserved, account.sequence)
    if there == (row.balance, row.reserved, row.sequence):
        return ""
    return (
        f"Redis has {to_credits(account.balance)} at sequence {account.sequence} with "
        f"{to_credits(account.reserved)} reserved, the ledger {to_credits(row.balance)} at "
        f"{row.sequence} with {to_credits(row.reserved)}"
    )


def _difference_of_holds(account: Held, there: dict[str, int], recorded: dict[str, int]) -> str:
    if there != recorded:
        return f"Redis has the holds {there}, the ledger {recorded}"
    if account.open_holds != len(there):
        return f"Redis counts {account.open_holds} open holds and has {len(there)}"
    return ""


_SUMS: Final = (
    select(
        transactions.c.user_id,
        func.sum(micros_of(transactions.c.amount)).label("total"),
        func.count().label("number"),
        func.min(transactions.c.sequence).label("first"),
        func.max(transactions.c.sequence).label("last"),
    )
    .group_by(transactions.c.user_id)
    .subquery()
)
_KEPT: Final = (
    select(holds.c.user_id, func.sum(micros_of(holds.c.reserved)).label("kept"))
    .where(holds.c.state == "reserved")
    .group_by(holds.c.user_id)
    .subquery()
)
_USERS: Final = (
    select(
        users.c.id,
        micros_of(users.c.credits).label("balance"),
        micros_of(users.c.reserved).label("reserved"),
        _KEPT.c.kept,
        users.c.sequence,
        _SUMS.c.total,
        _SUMS.c.number,
        _SUMS.c.first,
        _SUMS.c.last,
        micros_of(transactions.c.balance_before).label("before"),
    )
    .select_from(users)
    .outerjoin(_SUMS, _SUMS.c.user_id == users.c.id)
    .outerjoin(_KEPT, _KEPT.c.user_id == users.c.id)
    .outerjoin(
        transactions,
        and_(
            transactions.c.user_id == users.c.id,
            transactions.c.sequence == _SUMS.c.first,
        ),
    )
)
_BEFORE: Final = micros_of(transactions.c.balance_before)
_STEPS: Final = select(
    transactions.c.user_id,
    transactions.c.sequence,
    _BEFORE.label("before"),
    func.lag(micros_of(transactions.c.balance_after))
    .over(partition_by=transactions.c.user_id, order_by=transactions.c.sequence)
    .label("previous"),
).subquery()
_BROKEN: Final = select(_STEPS).where(_STEPS.c.previous != _STEPS.c.before).limit(_BROKEN_MAX)


async def _sums_by_kind(connection: AsyncConnection) -> dict[str, tuple[int, int]]:
    total: ColumnElement[int] = func.sum(micros_of(transactions.c.amount))
    query = select(transactions.c.kind, total, func.count()).group_by(transactions.c.kind)
    return {kind: (int(sum_), number) for kind, sum_, number in await connection.execute(query)}


def _opening(row: Any) -> int:
    return int(row.balance if row.number is None else row.before)


def _drift(row: Any) -> int:
    return 0 if row.number is None else int(row.balance - row.before - row.total)


def _problem(row: Any) -> str:
    if int(row.reserved) != int(row.kept or 0):
        kept = to_credits(int(row.kept or 0))
        return f"{to_credits(row.reserved)} are reserved, and the open holds keep {kept}"
    if row.number is None:
        return "" if row.sequence == 0 else f"sequence {row.sequence} without a transaction"
    if _drift(row):
        return f"the balance differs by {to_credits(_drift(row))} from the transactions"
    if row.last != row.sequence or row.number != row.last - row.first + 1:
        numbers = f"{row.number} transactions from {row.first} to {row.last}"
        return f"the sequence has a gap: {numbers}, user at {row.sequence}"
    return ""


def _broken(row: Any) -> str:
    return (
        f"transaction {row.sequence} begins at {to_credits(row.before)}, the one before it ended at "
        f"{to_credits(row.previous)}"
    )


def shown(differing: dict[str, str], most: int = 5) -> str:
    """The first few differences, for people."""
    lines: Sequence[str] = [f"{user}: {problem}" for user, problem in differing.items()]
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more
