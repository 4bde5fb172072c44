"""When there is no room for more: charges and grants are refused in time, everything else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import BackPressureError, ChargeResult
from credits_fast.servers.lane import Endpoint, info_fields
from credits_fast.servers.pressure import NEAR
from credits_fast.testing import CreditsKit, kit_on
from tests.cluster_servers import until
from tests.integration.conftest import CONFIG

CAP = 4
SMALL: dict[str, Any] = {
    **CONFIG,
    "partitions": 1,
    "retry": {"enabled": False},
    "sync": {"retain_max": 1},
    "back_pressure": {"journal_max": CAP},
}


@pytest.fixture
async def small(
    redis_endpoint: Endpoint, sqlite_database: AsyncEngine
) -> AsyncIterator[CreditsKit]:
    """A journal of four entries, and a user whose credits are in none of them."""
    async with kit_on(SMALL, redis_endpoint, sqlite_database, None) as kit:
        await kit.engine.create_user("ada", credits=1_000)
        yield kit


async def length(kit: CreditsKit) -> int:
    lane = await kit.engine.lane()
    found: int = await lane.execute(b"XLEN", kit.engine.partitions[0].journal)
    return found


async def test_a_full_journal_refuses_until_it_is_drained(small: CreditsKit) -> None:
    credits = small.engine
    first = await credits.charge("ada", "image", idempotency_key="k")
    hold = (await credits.reserve("ada", "image")).hold_id
    for _ in range(CAP - 2):
        await credits.charge("ada", "image")

    for refused in (
        credits.charge("ada", "image"),
        credits.grant("ada", 5, "bonus"),
        credits.extend("ada", hold, amount=1),
        credits.charge("ada", "image", amount=10_000),  # not even the refusal is journalled
    ):
        with pytest.raises(BackPressureError) as full:
            await refused
        assert (0, "journal") == (full.value.partition, full.value.reason)
        assert full.value.transient
    assert CAP == await length(small)

    again = await credits.charge("ada", "image", idempotency_key="k")
    assert (True, first.transaction_id) == (again.replayed, again.transaction_id)
    await credits.refund("ada", 20, "image", transaction_id=first.transaction_id)
    await credits.upgrade_tier("ada", "basic")
    await credits.extend("ada", hold, ttl_ms=1_000)
    assert CAP + 3 == await length(small)

    await small.sync()
    assert 80 == (await credits.charge("ada", "image")).balance_after
    await small.assert_balanced()


async def test_callers_who_share_a_script_call_never_pass_the_cap(small: CreditsKit) -> None:
    outcomes: list[ChargeResult | BaseException] = []
    for _ in range(CAP + 2):
        charges = (small.engine.charge("ada", "free", amount=1) for _ in range(10))
        outcomes += await asyncio.gather(*charges, return_exceptions=True)

    refused = [one for one in outcomes if isinstance(one, BackPressureError)]
    assert CAP == await length(small)
    assert 1_000 - (len(outcomes) - len(refused)) == await small.engine.query_balance("ada")
    assert len(refused) >= 20
    await small.assert_balanced()


async def test_far_below_the_cap_a_script_is_not_told_it(
    redis_endpoint: Endpoint, sqlite_database: AsyncEngine
) -> None:
    settings = {"journal_max": NEAR + 12, "poll_ms": 60_000}
    async with kit_on(
        {**CONFIG, "partitions": 1, "back_pressure": settings},
        redis_endpoint,
        sqlite_database,
        None,
    ) as kit:
        lane = await kit.engine.lane()
        caps: list[bytes] = []
        for _ in range(3):
            await kit.engine._pressure.look()
            caps.append(kit.engine._pressure.journal_max("charge", lane))
            await kit.engine.create_user(f"user-{len(caps)}", credits=100)
            for _ in range(6):
                await kit.engine.charge(f"user-{len(caps)}", "free")

        assert [b"", b"", b"%d" % settings["journal_max"]] == caps
        assert b"" == kit.engine._pressure.journal_max("refund", lane)
        kit.engine._pressure._known_until = 0.0
        kit.engine._pressure._is_near = False
        assert caps[-1] == kit.engine._pressure.journal_max("charge", lane)


async def test_short_memory_refuses_until_there_is_some_again(
    redis_endpoint: Endpoint, sqlite_database: AsyncEngine
) -> None:
    config: dict[str, Any] = {
        **CONFIG,
        "retry": {"enabled": False},
        "back_pressure": {"poll_ms": 10},
    }
    async with kit_on(config, redis_endpoint, sqlite_database, None) as kit:
        credits = kit.engine
        await credits.create_user("ada", credits=1_000)
        charge = await credits.charge("ada", "image", idempotency_key="k")
        lane = await credits.lane()

        async def is_refused() -> bool:
            try:
                await credits.charge("ada", "free")
            except BackPressureError:
                return True
            return False

        async def is_charged() -> bool:
            return not await is_refused()

        used = int(info_fields(await lane.execute(b"INFO", b"memory"))["used_memory"])
        try:
            await lane.execute(b"CONFIG", b"SET", b"maxmemory", b"%d" % (used * 10 // 9))
            await until(is_refused, "the next look sees that memory is short")
            with pytest.raises(BackPressureError) as short:
                await credits.grant("ada", 5, "bonus")
            assert "memory" == short.value.reason
            again = await credits.charge("ada", "image", idempotency_key="k")
            assert again.replayed
            await credits.refund("ada", 20, "image", transaction_id=charge.transaction_id)
            assert 0 < await kit.sync()
        finally:
            await lane.execute(b"CONFIG", b"SET", b"maxmemory", b"0")
        await until(is_charged, "the next look sees that there is memory again")
        await kit.assert_balanced()
