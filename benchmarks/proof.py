"""The proof that closes a run: what was acknowledged is in the ledger, once, and every sum agrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from credits_fast.benchmarks.workload import OPENING
from credits_fast.checks.balance_sheet import (
    BalanceSheet,
    RedisComparison,
    balance_sheet,
    compare_redis,
)
from credits_fast.ledger.database import reading
from credits_fast.sync.tables import audit_logs, idempotency_records, transactions

if TYPE_CHECKING:
    from credits_fast.benchmarks.product import Books
    from credits_fast.benchmarks.stage import Stage

__all__ = ["Proof", "Rows", "judge", "prove"]


@dataclass(frozen=True, slots=True)
class Rows:
    """What the ledger has.

    Attributes:
        distinct: Different ids of transactions.
        succeeded: Audit rows of successes.
        failed: Audit rows of refusals.
        remembered: Idempotency records.
    """

    distinct: int
    succeeded: int
    failed: int
    remembered: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What the comparison found.

    Attributes:
        problems: What does not agree, for people; nothing where all does.
        books: What was acknowledged.
        rows: What the ledger has.
        sheet: The ledger summed up.
        redis: Redis beside the ledger.
        baselines: By baseline, how far its own sums are off.
    """

    problems: list[str]
    books: Books
    rows: Rows
    sheet: BalanceSheet
    redis: RedisComparison
    baselines: Mapping[str, int]

    @property
    def is_verified(self) -> bool:
        """Whether everything agrees."""
        return not self.problems


async def prove(stage: Stage, books: Books, users: int, baselines: Mapping[str, int]) -> Proof:
    """Compare; when nothing is under way and everything is recorded.

    Args:
        stage: The servers.
        books: What was acknowledged.
        users: How many users there are.
        baselines: By baseline, how far its own sums are off.
    """
    status = audit_logs.c.status
    async with reading(stage.database) as connection:
        distinct = await connection.scalar(select(func.count(func.distinct(transactions.c.id))))
        audited = await connection.execute(select(status, func.count()).group_by(status))
        by_status = {name: number for name, number in audited}  # noqa: C416  # rows are no pairs to a type checker
        count = select(func.count()).select_from(idempotency_records)
        remembered = await connection.scalar(count)
    rows = Rows(
        distinct or 0, by_status.get("success", 0), by_status.get("failed", 0), remembered or 0
    )
    sheet = await balance_sheet(stage.database)
    redis = await compare_redis(stage.database, stage.engine.router, stage.engine.partitions)
    problems = judge(books, rows, sheet, redis, users=users, baselines=baselines)
    return Proof(problems, books, rows, sheet, redis, baselines)


def judge(
    books: Books,
    rows: Rows,
    sheet: BalanceSheet,
    redis: RedisComparison,
    *,
    users: int,
    baselines: Mapping[str, int],
) -> list[str]:
    """What does not agree, for people. Pure."""
    left = users * OPENING - books.credits
    audited = books.charges + books.reservations
    findings = {
        f"the ledger has {sheet.transactions:,} rows for {books.charges:,} charges": (
            sheet.transactions != books.charges
        ),
        f"the ledger has {rows.distinct:,} different ids for {books.charges:,} charges": (
            rows.distinct != books.charges
        ),
        f"the audit log has {rows.succeeded:,} successes for {audited:,} charges and reservations": (
            rows.succeeded != audited
        ),
        f"the audit log has {rows.failed:,} failures for {books.refusals:,} refusals": (
            rows.failed != books.refusals
        ),
        f"the ledger remembers {rows.remembered:,} keys of {books.keyed:,}": (
            rows.remembered != books.keyed
        ),
        f"the ledger charged {sheet.charged:f} credits of {books.credits:f}": (
            sheet.charged != books.credits
        ),
        f"the users have {sheet.balances:f} credits, {left:f} are left": sheet.balances != left,
        "the ledger does not conserve credits": not sheet.conserves,
        f"{len(sheet.differing):,} users have another balance than their rows": sheet.differing,
        f"the ledger drifts by {sheet.drift:f} credits": sheet.drift != Decimal(0),
        f"the ledger has {sheet.users:,} of {users:,} users": sheet.users != users,
        f"Redis knows {redis.compared:,} of {redis.users:,} users": redis.compared != redis.users,
        f"{len(redis.differing):,} users differ between Redis and the ledger": redis.differing,
        **{
            f"the sums of {name} are off by {missing:,}": missing != 0
            for name, missing in baselines.items()
        },
    }
    return [finding for finding, is_there in findings.items() if is_there]
