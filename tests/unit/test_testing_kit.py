"""The kit applications test with: no servers, a settable clock, and an assertion that can fail."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from credits_fast import MembershipRequiredError
from credits_fast.sync.tables import users
from credits_fast.testing import (
    Clock,
    CreditsKit,
    credits_clock,
    credits_config,
    credits_kit,
    open_kit,
)

__all__ = ["credits_clock", "credits_config", "credits_kit"]


async def test_the_kit_needs_no_server(credits_kit: CreditsKit) -> None:
    await credits_kit.engine.create_user("ada", credits=10)
    await credits_kit.engine.charge("ada", "request", metadata={"n": 1})

    (_, charge) = await credits_kit.transactions("ada")
    assert ({"n": 1}, 9) == (charge.metadata, charge.balance_after)
    assert ["createUser", "charge"] == [one.action for one in await credits_kit.audit("ada")]
    await credits_kit.assert_balanced()


async def test_time_stands_still_until_it_is_moved(credits_clock: Clock) -> None:
    config = {
        "costs": {"request": {"default": 1}},
        "membership": {
            "tiers": {"pro": 1},
            "credits_caps": {"pro": 10},
            "requirements": {"request": "pro"},
        },
    }
    async with open_kit(config, clock=credits_clock) as kit:
        await kit.engine.create_user("ada", tier="pro", membership_expires_at=credits_clock.now)

        assert await kit.engine.validate_access("ada", "request")
        credits_clock.advance(seconds=0.001)
        with pytest.raises(MembershipRequiredError, match="expired"):
            await kit.engine.validate_access("ada", "request")


async def test_the_ledger_bears_the_clocks_time(
    credits_kit: CreditsKit,
    credits_clock: Clock,
) -> None:
    await credits_kit.engine.create_user("ada", credits=10)
    start = credits_clock.now
    credits_clock.advance(hours=1, days=2)
    await credits_kit.engine.charge("ada", "request")

    rows = await credits_kit.transactions("ada")
    assert [start, start + timedelta(days=2, hours=1)] == [row.created_at for row in rows]


async def test_the_assertion_fails_where_the_ledger_was_changed(credits_kit: CreditsKit) -> None:
    await credits_kit.engine.create_user("ada", credits=10)
    await credits_kit.engine.charge("ada", "request")
    await credits_kit.assert_balanced()
    async with credits_kit.database.begin() as connection:
        await connection.execute(update(users).values(credits=10))

    with pytest.raises(AssertionError, match="ada: the balance differs by 1"):
        await credits_kit.assert_balanced()


async def test_the_assertion_fails_where_redis_was_changed(credits_kit: CreditsKit) -> None:
    await credits_kit.engine.create_user("ada", credits=10)
    await credits_kit.engine.charge("ada", "request")
    lane = await credits_kit.engine.lane()
    account = credits_kit.engine.partitions.of(b"ada").account(b"ada")
    await lane.execute(b"SET", account, b"1-0 10000000 0 2  ")

    with pytest.raises(AssertionError, match=r"ada: Redis has 10\.000000 at sequence 2"):
        await credits_kit.assert_balanced()


async def test_the_assertion_fails_where_a_partition_is_set_aside(credits_kit: CreditsKit) -> None:
    await credits_kit.engine.create_user("ada", credits=10)
    lane = await credits_kit.engine.lane()
    account = credits_kit.engine.partitions.of(b"ada").account(b"ada")
    await lane.execute(b"SET", account, b"1-0 99000000 0 2  ")
    await credits_kit.engine.charge("ada", "request")

    with pytest.raises(AssertionError, match="set partitions aside"):
        await credits_kit.assert_balanced()
