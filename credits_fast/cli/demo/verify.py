"""Do the books, the ledger and Redis agree? Operation by operation, user by user, and in sum."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select

from credits_fast.amounts import to_credits
from credits_fast.checks.balance_sheet import (
    BalanceSheet,
    RedisComparison,
    balance_sheet,
    compare_redis,
)
from credits_fast.cli.demo.books import CREATED, Books, created_id
from credits_fast.ledger.database import reading
from credits_fast.sync.tables import audit_logs, micros_of, transactions, users

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.engine import CreditsEngine
    from credits_fast.types import Kind

__all__ = ["LedgerContents", "LedgerRow", "Verdict", "judge", "verify"]

_KINDS: Final[tuple[Kind, ...]] = ("charge", "grant", "refund", "tier")


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What a row of the ledger says, beside what the books say.

    Attributes:
        id: The transaction id; for first credits what the books have instead.
        user: Whose balance it changed.
        kind: What it is.
        delta: Credits, signed.
    """

    id: str
    user: str
    kind: Kind
    delta: Decimal


@dataclass(frozen=True, slots=True)
class LedgerContents:
    """What is in the ledger.

    Attributes:
        rows: Every transaction.
        balances: What every user has, in credits.
        audited: Rows of the audit log by their status.
    """

    rows: list[LedgerRow]
    balances: dict[str, Decimal]
    audited: dict[str, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison found.

    Attributes:
        counts: Acknowledged operations by kind.
        acknowledged: How many there are in all.
        lost: Acknowledged operations that the ledger has not.
        duplicated: Ledger rows nobody asked for, ids that stand there twice, and calls with a used
            key that took effect again.
        altered: Operations whose row says another user, kind or amount.
        drift: The sum of all absolute differences, in credits: of rows, of balances, of Redis.
        refused: Refusals that were answered.
        audited: Rows of the audit log by their status.
        sheet: The ledger summed up.
        redis: Redis beside the ledger.
    """

    counts: dict[Kind, int]
    acknowledged: int
    lost: tuple[str, ...]
    duplicated: tuple[str, ...]
    altered: tuple[str, ...]
    drift: Decimal
    refused: int
    audited: dict[str, int]
    sheet: BalanceSheet
    redis: RedisComparison

    @property
    def problems(self) -> list[str]:
        """What does not agree, for people; nothing where all does."""
        sheet, redis = self.sheet, self.redis
        succeeded, failed = (self.audited.get(status, 0) for status in ("success", "failed"))
        findings = {
            f"{len(self.lost):,} acknowledged operations are not in the ledger": self.lost,
            f"{len(self.duplicated):,} ledger rows were never asked for": self.duplicated,
            f"{len(self.altered):,} ledger rows say something else": self.altered,
            f"{len(sheet.differing):,} users have another balance than their rows": sheet.differing,
            f"{len(redis.differing):,} users differ between Redis and the ledger": redis.differing,
            f"the differences add up to {self.drift:f} credits": self.drift,
            "the ledger does not conserve credits": not sheet.conserves,
            f"Redis knows {redis.compared:,} of {redis.users:,} users": redis.compared
            != redis.users,
            f"the ledger has {sheet.transactions:,} rows for {self.acknowledged:,} operations": (
                sheet.transactions != self.acknowledged
            ),
            f"the audit log has {succeeded:,} successes for {self.acknowledged:,} operations": (
                succeeded != self.acknowledged
            ),
            # A refusal whose answer was lost is decided again, and audited again.
            f"the audit log has {failed:,} failures for {self.refused:,} refusals": (
                failed < self.refused
            ),
        }
        return [finding for finding, is_there in findings.items() if is_there]


async def verify(books: Books, engine: CreditsEngine, database: AsyncEngine) -> Verdict:
    """Compare; when nothing is under way and everything is recorded.

    Raises:
        UnavailableError: A server cannot be reached.
    """
    contents = await _read(database)
    sheet = await balance_sheet(database)
    redis = await compare_redis(database, engine.router, engine.partitions)
    return judge(books, contents, sheet, redis)


def judge(
    books: Books, contents: LedgerContents, sheet: BalanceSheet, redis: RedisComparison
) -> Verdict:
    """The verdict on what was read. Pure, except that unanswered calls found in the ledger are noted.

    A call that was never answered may or may not have taken effect; the ledger settles it.
    """
    rows, balances = contents.rows, contents.balances
    for row in rows:
        if row.id in books.unknown:
            books.acknowledge(row.id, row.user, row.kind, row.delta)
    seen = Counter(row.id for row in rows)
    found = {row.id: row for row in rows}
    surplus = (id_ for id_, times in seen.items() for _ in range(times - (id_ in books.entries)))
    altered, drift = _differences(books, found)
    expected = books.balances()
    drift += sum(
        abs(expected.get(user, Decimal(0)) - balances.get(user, Decimal(0)))
        for user in expected.keys() | balances.keys()
    )
    return Verdict(
        counts={kind: books.count(kind) for kind in _KINDS},
        acknowledged=len(books.entries),
        lost=tuple(id_ for id_ in books.entries if id_ not in seen),
        duplicated=(*surplus, *books.again),
        altered=altered,
        drift=drift + sheet.drift + redis.drift,
        refused=books.refusals.total(),
        audited=contents.audited,
        sheet=sheet,
        redis=redis,
    )


def _differences(books: Books, found: dict[str, LedgerRow]) -> tuple[tuple[str, ...], Decimal]:
    """Operations whose row says something else, and by how many credits in sum."""
    altered: list[str] = []
    drift = Decimal(0)
    for id_, entry in books.entries.items():
        row = found.get(id_)
        if row is None:
            continue
        drift += abs(row.delta - entry.delta)
        if (row.user, row.kind, row.delta) != (entry.user, entry.kind, entry.delta):
            altered.append(id_)
    return tuple(altered), drift


async def _read(database: AsyncEngine) -> LedgerContents:
    columns, status = transactions.c, audit_logs.c.status
    rows = select(
        columns.id, columns.user_id, columns.kind, columns.action, micros_of(columns.amount)
    )
    have = select(users.c.id, micros_of(users.c.credits))
    audit = select(status, func.count()).group_by(status)
    async with reading(database) as connection:
        return LedgerContents(
            rows=[_row(*row) for row in (await connection.execute(rows)).all()],
            balances={id_: to_credits(sum_) for id_, sum_ in await connection.execute(have)},
            audited={row[0]: row[1] for row in await connection.execute(audit)},
        )


def _row(id_: str, user: str, kind: Any, action: str, micros: int) -> LedgerRow:
    return LedgerRow(created_id(user) if action == CREATED else id_, user, kind, to_credits(micros))
