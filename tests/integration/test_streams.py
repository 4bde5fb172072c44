"""`hold.consume`: charged in parts and on the way, exactly what was counted, however the stream ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import (
    HoldExpiredError,
    HoldSharedError,
    InsufficientCreditsError,
    InvalidArgumentError,
    MissingVariableError,
    OutcomeUnknownError,
)
from credits_fast.holds.hold import Hold
from credits_fast.servers.lane import Endpoint
from credits_fast.testing import Clock, CreditsKit, kit_on
from tests.integration.conftest import CONFIG
from tests.proxy import ReplyEater

TURNS_MAX = 20_000
"""Turns of the event loop that a stream takes at most; on a busy machine it waits longer."""


class UpstreamError(Exception):
    """Something fails within a stream."""


async def charges(kit: CreditsKit) -> list[Decimal]:
    return [-one.amount for one in await kit.transactions("ada") if one.kind == "charge"]


async def consumed_until(block: Hold, error: BaseException, *amounts: int) -> None:
    """Consume these amounts, and fail."""
    async with block as hold:
        for amount in amounts:
            await hold.consume(amount=amount)
        raise error


async def test_a_stream_is_charged_in_parts_and_what_is_left_is_released(kit: CreditsKit) -> None:
    credits = kit.engine
    await credits.create_user("ada", credits=1_000)

    async with credits.hold("ada", "image", amount=100, metadata={"a": 1}) as hold:
        for number in range(60):
            await hold.consume(amount=1)
            user = await credits.get_user("ada")
            settled = (number + 1) // 25 * 25
            assert (1_000 - settled, 100 - settled) == (user.credits, user.reserved)

    assert (60, 10) == (hold.consumed, hold.captured and hold.captured.cost)
    assert [25, 25, 10] == await charges(kit)
    rows = [one for one in await kit.transactions("ada") if one.kind == "charge"]
    assert {(hold.id, 1)} == {(row.related_id, row.metadata["a"]) for row in rows}
    assert 0 == (await credits.get_user("ada")).reserved
    await kit.assert_balanced()


@pytest.mark.parametrize("error", [UpstreamError(), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_an_exception_charges_what_was_consumed_and_goes_on(
    sqlite_kit: CreditsKit, error: BaseException
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)

    with pytest.raises(type(error)):
        await consumed_until(credits.hold("ada", "image"), error, 3, 3, 1)
    with pytest.raises(type(error)):
        await consumed_until(credits.hold("ada", "image"), error)
    with pytest.raises(type(error)):
        await consumed_until(credits.hold("ada", "image"), error, 0)

    user = await credits.get_user("ada")
    assert (93, 0) == (user.credits, user.reserved)
    assert 7 == sum(await charges(sqlite_kit))
    await sqlite_kit.assert_balanced()


async def test_a_generator_that_is_closed_early_is_charged_for_what_it_gave(
    sqlite_kit: CreditsKit,
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)

    async def stream() -> AsyncGenerator[int, None]:
        async with credits.hold("ada", "image") as hold:
            for number in range(10):
                await hold.consume(amount=2)
                yield number

    pieces = stream()
    assert [0, 1, 2] == [await anext(pieces) for _ in range(3)]
    await pieces.aclose()

    user = await credits.get_user("ada")
    assert (94, 0) == (user.credits, user.reserved)
    await sqlite_kit.assert_balanced()


async def test_a_stream_takes_more_while_there_is_more_and_stops_at_the_last_credit(
    sqlite_kit: CreditsKit,
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=40)
    other = await credits.reserve("ada", "image", amount=5)

    block = credits.hold("ada", "image", amount=10)
    with pytest.raises(InsufficientCreditsError) as refused:
        await consumed_until(block, UpstreamError(), *[2] * 100)

    assert 34 == block.consumed
    told = (refused.value.required, refused.value.available, refused.value.reserved)
    assert ((1, 0, 5), True) == (told, refused.value.is_held)
    user = await credits.get_user("ada")
    assert (6, 5) == (user.credits, user.reserved)
    await credits.release("ada", other.hold_id)
    await sqlite_kit.assert_balanced()


async def test_variables_are_priced_as_sums_for_the_tier_of_the_hold(
    sqlite_kit: CreditsKit,
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100, tier="pro")
    price = (await credits.charge("ada", "chat", variables={"tokens": 1_000})).cost

    async with credits.hold("ada", "chat", estimate={"tokens": 2_000}) as hold:
        await credits.downgrade_tier("ada", "basic")
        for _ in range(40):
            await hold.consume(variables={"tokens": 25})

    assert price == hold.consumed
    _, *parts = await charges(sqlite_kit)
    assert price == sum(parts)
    assert len(parts) > 1
    facts = (await sqlite_kit.transactions("ada"))[-1].metadata["dynamicCost"]
    assert ({"tokens": 1_000}, float(parts[-1])) == (facts["variables"], facts["finalCost"])
    await sqlite_kit.assert_balanced()


async def test_few_servers_are_asked(
    sqlite_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=1_000)
    asked: list[str] = []
    original = credits._carrier.carry_out

    async def seen(pending: Any, acknowledge: Any) -> Any:
        asked.append(pending.verb)
        return await original(pending, acknowledge)

    monkeypatch.setattr(credits._carrier, "carry_out", seen)
    async with credits.hold("ada", "image", amount=100) as hold:
        for _ in range(1_010):
            await hold.consume(amount=Decimal("0.1"))

    expected = ["reserve", *["capture"] * 4, "extend", "capture"]
    assert expected == asked
    assert 101 == hold.consumed


async def test_a_long_stream_is_given_its_time_again_and_a_pause_ends_it(
    redis_endpoint: Endpoint, sqlite_database: AsyncEngine
) -> None:
    clock = Clock()
    async with kit_on(CONFIG, redis_endpoint, sqlite_database, clock) as kit:
        await kit.engine.create_user("ada", credits=100)
        async with kit.engine.hold("ada", "image", ttl_ms=10_000) as hold:
            for _ in range(12):
                clock.advance(seconds=4)
                await hold.consume(amount=1)
        assert 88 == await kit.engine.query_balance("ada")

        late = kit.engine.hold("ada", "image", ttl_ms=10_000)
        await late.__aenter__()
        await late.consume(amount=6)
        await late.consume(amount=1)
        clock.advance(seconds=11)
        with pytest.raises(HoldExpiredError) as expired:
            await late.consume(amount=2)
        await late.__aexit__(HoldExpiredError, expired.value, None)
        assert (7, 82) == (late.consumed, await kit.engine.query_balance("ada"))
        await kit.assert_balanced()


async def test_a_stream_is_consumed_by_the_block_that_made_its_hold(
    sqlite_kit: CreditsKit,
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)

    async with credits.hold("ada", "image", idempotency_key="k") as first:
        await first.consume(amount=4)
        with pytest.raises(HoldSharedError) as refused:
            async with credits.hold("ada", "image", idempotency_key="k") as second:
                await second.consume(amount=4)
        assert first.id == refused.value.hold_id
        await first.consume(amount=4)

    assert 92 == await credits.query_balance("ada")
    await sqlite_kit.assert_balanced()


async def test_what_cannot_be_consumed_is_not_counted(sqlite_kit: CreditsKit) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)
    async with credits.hold("ada", "chat", amount=20) as hold:
        nonsense: tuple[dict[str, Any], ...] = ({}, {"amount": 1, "variables": {"tokens": 1}})
        for wrong in nonsense:
            with pytest.raises(InvalidArgumentError, match="not both"):
                await hold.consume(**wrong)
        with pytest.raises(MissingVariableError):
            await hold.consume(variables={"other": 1})
        await hold.consume(amount=1)
        with pytest.raises(InvalidArgumentError, match="is consumed"):
            hold.used(amount=1)
    with pytest.raises(InvalidArgumentError, match="is over"):
        await hold.consume(amount=1)
    async with credits.hold("ada", "image") as used:
        used.used(amount=1)
        with pytest.raises(InvalidArgumentError, match="what is used"):
            await used.consume(amount=1)
    assert 98 == await credits.query_balance("ada")
    await sqlite_kit.assert_balanced()


async def test_tasks_that_consume_one_hold_together_are_charged_for_all_of_it(
    sqlite_kit: CreditsKit,
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)

    async with credits.hold("ada", "image", amount=10) as hold:
        outcomes = await asyncio.gather(
            *(hold.consume(amount=3) for _ in range(40)), return_exceptions=True
        )

    assert 33 == outcomes.count(None)
    assert (99, 1) == (hold.consumed, await credits.query_balance("ada"))
    await sqlite_kit.assert_balanced()


async def test_a_stream_that_is_cancelled_at_any_turn_is_charged_what_it_counted(
    sqlite_kit: CreditsKit,
) -> None:
    await sqlite_kit.engine.create_user("ada", credits=10_000)
    lengths: set[Decimal] = set()

    async def stream(block: Hold, given: list[int]) -> None:
        async with block as hold:
            for number in range(6):
                await hold.consume(amount=2)
                given.append(number)
                await asyncio.sleep(0)

    turns = 0
    while turns < TURNS_MAX:
        before = await sqlite_kit.engine.query_balance("ada")
        block, given = sqlite_kit.engine.hold("ada", "image", amount=6), list[int]()
        task = asyncio.create_task(stream(block, given))
        for _ in range(turns):
            if task.done():
                break
            await asyncio.sleep(0)
        was_cancelled = task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        user = await sqlite_kit.engine.get_user("ada")
        assert (before - block.consumed, 0) == (user.credits, user.reserved), turns
        assert 2 * len(given) <= block.consumed <= 2 * len(given) + 2
        lengths.add(block.consumed)
        if not was_cancelled:
            break
        turns += 1 + turns // 16
    else:
        pytest.fail("the stream never came to its end")
    assert {0, 12} < lengths <= {0, 2, 4, 6, 8, 10, 12}
    await sqlite_kit.assert_balanced()


@pytest.mark.parametrize("attempts", [1, 100])
async def test_eaten_replies_charge_a_stream_once(
    redis_endpoint: Endpoint, sqlite_database: AsyncEngine, tmp_path: Path, attempts: int
) -> None:
    """With one attempt outcomes stay unknown, and are settled by the next piece or the end."""
    assert redis_endpoint.address.startswith("unix:"), "this needs the server of the run"
    server = redis_endpoint.address.removeprefix("unix:")
    retry = {"max_attempts": attempts, "initial_delay": 0, "max_delay": 1}
    config: dict[str, Any] = {**CONFIG, "retry": retry}
    async with ReplyEater(tmp_path / "p", server, share=0, seed=11) as proxy:
        endpoint = Endpoint.from_url(f"unix://{tmp_path}/p")
        async with kit_on(config, endpoint, sqlite_database, None) as kit:
            await kit.engine.create_user("ada", credits=10_000)
            total, unknown = Decimal(0), 0
            for _ in range(8):
                block = kit.engine.hold("ada", "image", amount=8)
                async with block as hold:
                    proxy.share = 0.4
                    for _ in range(12):
                        piece = asyncio.gather(hold.consume(amount=1), return_exceptions=True)
                        unknown += isinstance((await piece)[0], OutcomeUnknownError)
                    proxy.share = 0
                total += block.consumed

            assert proxy.eaten > 20
            assert (unknown > 5) == (attempts == 1)
            user = await kit.engine.get_user("ada")
            assert 10_000 - total == user.credits
            await kit.assert_balanced()
