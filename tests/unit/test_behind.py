"""How far the ledger is behind, how much was carried, and how many users were compared."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from sqlalchemy import update

from credits_fast.checks.balance_sheet import RedisComparison, compare_redis
from credits_fast.engine import Configuration
from credits_fast.ledger.database import writing
from credits_fast.ledger.recording import lag_ms
from credits_fast.sync.tables import users
from credits_fast.testing import Clock, CreditsKit, open_kit

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
CONFIG: Configuration = {
    "costs": {"request": {"default": 1}},
    "membership": {"tiers": {}, "credits_caps": {}},
}


@pytest.fixture
async def kit() -> AsyncIterator[CreditsKit]:
    async with open_kit(CONFIG, clock=Clock(LONG_AGO)) as kit:
        for user in ("ada", "grace"):
            await kit.engine.create_user(user, credits=10)
        await kit.sync()
        yield kit


async def lag_of(kit: CreditsKit) -> int:
    return await lag_ms(kit.engine.router, kit.database, kit.engine.partitions)


async def comparison_of(kit: CreditsKit) -> RedisComparison:
    return await compare_redis(kit.database, kit.engine.router, kit.engine.partitions)


async def test_there_is_no_lag_where_everything_is_recorded(kit: CreditsKit) -> None:
    await kit.engine.charge("ada", "request")
    await kit.sync()

    assert 0 == await lag_of(kit)


async def test_the_lag_is_the_age_of_the_oldest_decision_that_waits(kit: CreditsKit) -> None:
    assert kit.clock is not None
    kit.clock.advance(hours=1)
    await kit.engine.charge("ada", "request")
    younger = await lag_of(kit)
    kit.clock.advance(hours=-1)
    await kit.engine.charge("grace", "request")

    assert await lag_of(kit) - younger >= 3_600_000


async def test_a_worker_counts_what_it_has_carried(kit: CreditsKit) -> None:
    before = kit.worker.carried
    for _ in range(3):
        await kit.engine.charge("ada", "request")
    await kit.sync()

    assert 3 == kit.worker.carried - before


async def test_every_user_that_redis_knows_is_compared(kit: CreditsKit) -> None:
    assert RedisComparison(users=2, compared=2) == await comparison_of(kit)


async def test_a_cold_user_is_not_counted_as_compared(kit: CreditsKit) -> None:
    lane = await kit.engine.lane()
    await lane.execute(b"DEL", kit.engine.partitions.of(b"ada").account(b"ada"))

    assert RedisComparison(users=2, compared=1) == await comparison_of(kit)


async def test_the_drift_is_the_sum_of_the_differences(kit: CreditsKit) -> None:
    async with writing(kit.database) as connection:
        await connection.execute(update(users).values(credits=Decimal("8.5")))

    found = await comparison_of(kit)

    assert (Decimal(3), {"ada", "grace"}) == (found.drift, set(found.differing))
