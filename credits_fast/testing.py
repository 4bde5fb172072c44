"""For tests of applications, and our own: an engine without servers, with a clock that is set by hand.

The engine runs the real scripts on fakeredis and the real worker on SQLite in memory; it needs the
extra `credits-fast[testing]`. As a pytest plugin:

    pytest_plugins = ["credits_fast.testing"]

    @pytest.fixture
    def credits_config():
        return "credits.toml"

    async def test_a_request_costs_two_credits(credits_kit):
        await credits_kit.engine.create_user("ada", credits=10)
        await my_application(credits_kit.engine, "ada")
        assert (await credits_kit.engine.query_balance("ada")) == 8
        await credits_kit.assert_balanced()

Time stands still unless `kit.clock.advance` moves it. The ledger is written when `kit.sync` is called.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio
from sqlalchemy import select

from credits_fast.checks.balance_sheet import balance_sheet, compare_redis, shown
from credits_fast.engine import Configuration, CreditsEngine
from credits_fast.ledger.database import connect, reading
from credits_fast.ledger.records import audit_entry_of, transaction_of
from credits_fast.sync.tables import audit_logs, transactions
from credits_fast.sync.worker import SyncWorker

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from credits_fast.types import AuditEntry, Transaction

__all__ = ["Clock", "CreditsKit", "kit_on", "open_kit"]

_START: Final = datetime(2026, 1, 15, 12, tzinfo=UTC)


class Clock:
    """A clock that stands still until it is moved.

    Attributes:
        now: The time.

    Example:
        >>> clock = Clock()
        >>> clock.advance(hours=1)
        >>> clock().isoformat()
        '2026-01-15T13:00:00+00:00'
    """

    def __init__(self, now: datetime = _START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """The time."""
        return self.now

    def advance(self, *, seconds: float = 0, hours: float = 0, days: float = 0) -> None:
        """Move it forward."""
        self.now += timedelta(days=days, hours=hours, seconds=seconds)


@dataclass(frozen=True)
class CreditsKit:
    """An open engine and everything around it.

    Attributes:
        engine: The engine.
        worker: The worker, which works when `sync` is called.
        database: The ledger.
        clock: The time of all of them, None for the real one.
    """

    engine: CreditsEngine
    worker: SyncWorker
    database: AsyncEngine
    clock: Clock | None

    async def sync(self) -> int:
        """How many decisions were carried into the ledger: everything that was not there yet."""
        return await self.worker.drain()

    async def transactions(self, user_id: str | None = None) -> list[Transaction]:
        """The ledger of a user, or of all, oldest first; after a `sync`."""
        await self.sync()
        columns = transactions.c
        query = select(transactions).order_by(columns.created_at, columns.user_id, columns.sequence)
        if user_id is not None:
            query = (
                query.where(columns.user_id == user_id).order_by(None).order_by(columns.sequence)
            )
        async with reading(self.database) as connection:
            return [transaction_of(row) for row in await connection.execute(query)]

    async def audit(self, user_id: str | None = None) -> list[AuditEntry]:
        """The audit log about a user, or about all, oldest first; after a `sync`."""
        await self.sync()
        query = select(audit_logs).order_by(audit_logs.c.id)
        if user_id is not None:
            query = query.where(audit_logs.c.user_id == user_id)
        async with reading(self.database) as connection:
            return [audit_entry_of(row) for row in await connection.execute(query)]

    async def assert_balanced(self) -> None:
        """Nothing was lost, doubled or made: the ledger conserves, and Redis agrees with it.

        Raises:
            AssertionError: It is not so, with the users it is not so for.
        """
        await self.sync()
        if self.worker.set_aside:
            raise AssertionError(f"the worker set partitions aside: {self.worker.set_aside}")
        sheet = await balance_sheet(self.database)
        if not sheet.conserves:
            raise AssertionError(f"the ledger does not conserve credits: {shown(sheet.differing)}")
        redis = await compare_redis(self.database, self.engine.router, self.engine.partitions)
        if redis.differing:
            raise AssertionError(f"Redis and the ledger differ: {shown(redis.differing)}")


@asynccontextmanager
async def open_kit(
    config: Configuration,
    *,
    clock: Clock | None = None,
) -> AsyncGenerator[CreditsKit, None]:
    """An engine on fakeredis and SQLite in memory, open and migrated.

    Args:
        config: The configuration, its values, or the path of a TOML or JSON file.
        clock: The time; one that stands still where none is given.
    """
    from fakeredis import FakeAsyncRedis  # noqa: PLC0415  # an extra, perhaps absent

    client = FakeAsyncRedis()
    database = connect("sqlite://")
    try:
        async with kit_on(config, client, database, clock or Clock()) as kit:
            yield kit
    finally:
        await client.aclose()
        await database.dispose()


@asynccontextmanager
async def kit_on(
    config: Configuration,
    redis: Any,
    database: AsyncEngine,
    clock: Clock | None,
) -> AsyncGenerator[CreditsKit, None]:
    """A kit on servers of your own.

    Args:
        config: The configuration, its values, or the path of a TOML or JSON file.
        redis: A redis-py asyncio client, or an endpoint.
        database: The ledger; it is migrated.
        clock: The time, None for the servers' own.
    """
    engine = CreditsEngine(config, redis=redis, database=database, clock=clock)
    await engine.migrate()
    async with engine:
        worker = SyncWorker(
            engine.endpoint,
            database,
            engine.partitions,
            engine.config.sync,
            clock=clock,
        )
        try:
            yield CreditsKit(engine, worker, database, clock)
        finally:
            await worker.close()


@pytest.fixture
def credits_config() -> Configuration:
    """The configuration of `credits_kit`; override it with your own."""
    return {
        "costs": {"request": {"default": 1}},
        "membership": {"tiers": {"free": 0, "pro": 1}, "credits_caps": {"free": 100, "pro": 1_000}},
    }


@pytest.fixture
def credits_clock() -> Clock:
    """The clock of `credits_kit`."""
    return Clock()


@pytest_asyncio.fixture
async def credits_kit(
    credits_config: Configuration,
    credits_clock: Clock,
) -> AsyncGenerator[CreditsKit, None]:
    """An open kit on fakeredis and SQLite in memory."""
    async with open_kit(credits_config, clock=credits_clock) as kit:
        yield kit
