"""A report and its price in one transaction: both, or neither, wherever the program fails.

    python examples/own_transaction.py REDIS_URL POSTGRESQL_URL

The report is the application's, in a table of its own in the ledger's database. Its charge takes effect if
and only if the transaction commits: a report that fails to be written costs nothing, and one that was
written is charged, even where the program dies right after the commit.
"""

import asyncio
import sys
from typing import Any, Final

from sqlalchemy import String, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from credits_fast import CreditsEngine, InsufficientCreditsError

CONFIG: Final[dict[str, Any]] = {
    "costs": {"report": {"default": 4}},
    "membership": {"tiers": {}},
    "namespace": "own-transaction",
}


class Base(DeclarativeBase):
    """The application's tables."""


class Report(Base):
    """A report that somebody has bought."""

    __tablename__ = "own_transaction_reports"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(String(80))
    text: Mapped[str] = mapped_column(String(200))


def check(text: str) -> None:
    """Nothing, where the report can be delivered."""
    if not text:
        raise ValueError("a report without a word")


async def buy(credits: CreditsEngine, database: AsyncEngine, text: str) -> str:
    """Write a report and charge it; what came of it."""
    try:
        async with AsyncSession(database) as session, credits.in_transaction(session) as purchase:
            session.add(Report(owner="ada", text=text))
            await purchase.charge("ada", "report")
            check(text)
    except (ValueError, InsufficientCreditsError) as error:
        return f"not bought, {type(error).__name__}"
    return "bought"


async def main(redis_url: str, database_url: str) -> None:
    """Buy reports: one is empty, and one is too many."""
    database = create_async_engine(database_url)
    credits = CreditsEngine.from_url(redis_url, database_url, CONFIG)
    await credits.migrate()
    async with database.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with credits:
        await credits.create_user("ada", credits=10, idempotency_key="signup:ada")
        for text in ("first", "", "second", "third"):
            print(f"{text!r}: {await buy(credits, database, text)}")
        user = await credits.get_user("ada")
        async with AsyncSession(database) as session:
            reports = await session.scalar(select(func.count()).select_from(Report))
    print(f"ada has {user.credits:.2f} and {reports} reports")
    await database.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
