"""`async with credits.hold(…)`: charged at the end, given back by an exception, whenever that comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import (
    CaptureExceedsHoldError,
    HoldExpiredError,
    HoldFinishedError,
    IdempotencyKeyConflictError,
    InsufficientCreditsError,
    InvalidAmountError,
    InvalidArgumentError,
    RedisUnavailableError,
)
from credits_fast.holds.hold import Hold
from credits_fast.servers.lane import Endpoint
from credits_fast.testing import Clock, CreditsKit, kit_on, open_kit
from tests.integration.conftest import CONFIG
from tests.proxy import ReplyEater

TURNS_MAX = 400
"""Turns of the event loop that a block takes at most."""


class UpstreamError(Exception):
    """Something fails within a block."""


async def failing(block: Hold, error: type[BaseException] = UpstreamError) -> None:
    """Run a block that fails after it has said what it used."""
    async with block as hold:
        hold.used(amount=7)
        raise error


async def test_a_block_charges_what_it_used_else_what_was_held(sqlite_kit: CreditsKit) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)

    async with credits.hold("ada", "image") as whole:
        user = await credits.get_user("ada")
        assert (100, 20, None) == (user.credits, user.reserved, whole.captured)
    async with credits.hold("ada", "image", amount=30) as named:
        assert 30 == named.amount
        named.used(amount=40)
        named.used(amount=5)
    async with credits.hold("ada", "chat", estimate={"tokens": 9_000}) as measured:
        assert 19 == measured.amount
        measured.used(variables={"tokens": 1_000})

    costs = [one.captured.cost for one in (whole, named, measured) if one.captured]
    assert [20, 5, 11] == costs
    user = await credits.get_user("ada")
    assert (64, 0) == (user.credits, user.reserved)
    await sqlite_kit.assert_balanced()


@pytest.mark.parametrize("error", [UpstreamError, asyncio.CancelledError, KeyboardInterrupt])
async def test_an_exception_releases_the_hold_and_goes_on(
    sqlite_kit: CreditsKit, error: type[BaseException]
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)

    block = credits.hold("ada", "image")
    with pytest.raises(error):
        await failing(block, error)

    user = await credits.get_user("ada")
    assert (100, 0, None) == (user.credits, user.reserved, block.captured)
    await sqlite_kit.assert_balanced()


async def test_a_generator_that_is_closed_early_releases_its_hold(sqlite_kit: CreditsKit) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)

    async def stream() -> AsyncGenerator[int, None]:
        async with credits.hold("ada", "image"):
            yield 1
            yield 2

    chunks = stream()
    assert 1 == await anext(chunks)
    assert 20 == (await credits.get_user("ada")).reserved
    await chunks.aclose()

    assert 0 == (await credits.get_user("ada")).reserved
    await sqlite_kit.assert_balanced()


async def test_what_is_said_of_the_use_is_checked_where_it_is_said(sqlite_kit: CreditsKit) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)
    block = credits.hold("ada", "image")
    with pytest.raises(InvalidArgumentError, match="not entered"):
        _ = block.id
    async with block as hold:
        with pytest.raises(InvalidArgumentError, match="not both"):
            hold.used()
        with pytest.raises(InvalidArgumentError, match="not both"):
            hold.used(amount=1, variables={"tokens": 1})
        with pytest.raises(InvalidAmountError):
            hold.used(amount=-1)
    with pytest.raises(InvalidArgumentError, match="once"):
        async with block:
            pass
    with pytest.raises(InsufficientCreditsError):
        async with credits.hold("ada", "image", amount=81):
            raise AssertionError("the block must not run")
    await sqlite_kit.assert_balanced()


async def test_a_capture_that_is_refused_is_told_at_the_end_of_the_block(
    sqlite_kit: CreditsKit,
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)

    block = credits.hold("ada", "image", above="refuse")
    with pytest.raises(CaptureExceedsHoldError) as refused:
        async with block as hold:
            hold.used(amount=21)

    done = await credits.capture("ada", "image", refused.value.hold_id, amount=20)
    assert (80, block.id) == (done.balance_after, done.hold_id)
    await sqlite_kit.assert_balanced()


async def test_a_block_that_outlasts_its_hold_is_told_so(
    redis_endpoint: Endpoint, sqlite_database: AsyncEngine
) -> None:
    clock = Clock()
    async with kit_on(CONFIG, redis_endpoint, sqlite_database, clock) as kit:
        await kit.engine.create_user("ada", credits=100)
        with pytest.raises(HoldExpiredError):
            async with kit.engine.hold("ada", "image", ttl_ms=1_000):
                clock.advance(seconds=2)
        block = kit.engine.hold("ada", "image", ttl_ms=1_000)
        await block.__aenter__()
        clock.advance(seconds=2)
        await block.__aexit__(UpstreamError, UpstreamError(), None)
        assert 100 == await kit.engine.query_balance("ada")
        await kit.assert_balanced()


# --- the same key -------------------------------------------------------------------------------


async def test_blocks_of_one_key_that_run_at_once_share_a_hold_and_charge_once(
    sqlite_kit: CreditsKit,
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)
    together = asyncio.Barrier(3)

    async def block(amount: int) -> Hold:
        async with credits.hold("ada", "image", idempotency_key="k") as hold:
            await together.wait()
            hold.used(amount=amount)
        return hold

    done = await asyncio.gather(*(block(amount) for amount in (3, 4, 5)))

    assert 1 == len({one.id for one in done})
    assert [False, True, True] == sorted(one.replayed for one in done)
    (cost,) = {one.captured.cost for one in done if one.captured}
    assert 100 - cost == await credits.query_balance("ada")
    await sqlite_kit.assert_balanced()


async def test_a_block_whose_key_has_a_finished_hold_is_not_run(sqlite_kit: CreditsKit) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)
    async with credits.hold("ada", "image", idempotency_key="done"):
        pass
    with pytest.raises(UpstreamError):
        async with credits.hold("ada", "image", idempotency_key="failed"):
            raise UpstreamError

    for key, state in (("done", "captured"), ("failed", "released")):
        with pytest.raises(HoldFinishedError) as refused:
            async with credits.hold("ada", "image", idempotency_key=key):
                raise AssertionError("the block must not run")
        assert state == refused.value.state
    assert 80 == await credits.query_balance("ada")
    await sqlite_kit.assert_balanced()


async def test_a_block_that_fails_leaves_the_hold_to_the_one_that_made_it(
    sqlite_kit: CreditsKit,
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)

    async with credits.hold("ada", "image", idempotency_key="k") as first:
        with pytest.raises(UpstreamError):
            async with credits.hold("ada", "image", idempotency_key="k"):
                raise UpstreamError
        assert 20 == (await credits.get_user("ada")).reserved

    assert first.captured is not None
    assert 80 == await credits.query_balance("ada")
    await sqlite_kit.assert_balanced()


async def test_the_fingerprint_is_part_of_what_a_key_stands_for(sqlite_kit: CreditsKit) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)

    async with credits.hold("ada", "image", idempotency_key="k", fingerprint="a") as hold:
        again = await credits.reserve("ada", "image", idempotency_key="k", fingerprint="a")
        assert (hold.id, True) == (again.hold_id, again.replayed)
        for other in ("b", None):
            with pytest.raises(IdempotencyKeyConflictError):
                await credits.reserve("ada", "image", idempotency_key="k", fingerprint=other)
            with pytest.raises(IdempotencyKeyConflictError):
                async with credits.hold("ada", "image", idempotency_key="k", fingerprint=other):
                    raise AssertionError("the block must not run")

    assert 80 == await credits.query_balance("ada")
    await sqlite_kit.assert_balanced()


# --- cancelled ----------------------------------------------------------------------------------


async def cancelled_after(kit: CreditsKit, turns: int, **options: Any) -> tuple[bool, bool]:
    """Whether a block that is cancelled after so many turns was, and whether it has charged."""
    before = await kit.engine.query_balance("ada")

    async def block() -> None:
        async with kit.engine.hold("ada", "image", amount=1, **options):
            await asyncio.sleep(0)

    task = asyncio.create_task(block())
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    was_cancelled = task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert was_cancelled == isinstance(outcome, asyncio.CancelledError), outcome
    user = await kit.engine.get_user("ada")
    assert 0 == user.reserved, turns
    assert before - user.credits in {0, 1}
    return was_cancelled, before != user.credits


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_block_that_is_cancelled_at_any_turn_holds_nothing_and_charges_once_at_most(
    sqlite_kit: CreditsKit,
    keyed: bool,  # noqa: FBT001  # a column of the table
) -> None:
    await sqlite_kit.engine.create_user("ada", credits=1_000)
    charged: list[bool] = []
    for turns in range(TURNS_MAX):
        options = {"idempotency_key": f"k{turns}"} if keyed else {}
        was_cancelled, has_charged = await cancelled_after(sqlite_kit, turns, **options)
        charged.append(has_charged)
        if not was_cancelled:
            break
    else:
        pytest.fail("the block never came to its end")

    assert not charged[0]
    assert charged[-1]
    assert len(charged) > 5
    await sqlite_kit.assert_balanced()


async def test_the_same_without_a_server(caplog: pytest.LogCaptureFixture) -> None:
    async with open_kit(CONFIG) as kit:
        await kit.engine.create_user("ada", credits=1_000)
        outcomes = [await cancelled_after(kit, turns) for turns in range(60)]
        assert (True, False) == outcomes[0]
        assert (False, True) == outcomes[-1]
        await kit.assert_balanced()
    assert "was not released" not in caplog.text


async def test_a_block_that_is_cancelled_again_and_again_still_comes_to_its_end(
    sqlite_kit: CreditsKit,
) -> None:
    await sqlite_kit.engine.create_user("ada", credits=100)
    inside = asyncio.Event()

    async def block() -> None:
        async with sqlite_kit.engine.hold("ada", "image"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await inside.wait()
    for _ in range(TURNS_MAX):
        if task.done():
            break
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0 == (await sqlite_kit.engine.get_user("ada")).reserved
    await sqlite_kit.assert_balanced()


async def test_a_timeout_around_a_block_is_a_timeout(sqlite_kit: CreditsKit) -> None:
    await sqlite_kit.engine.create_user("ada", credits=100)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02), sqlite_kit.engine.hold("ada", "image"):
            await asyncio.Event().wait()

    assert 0 == (await sqlite_kit.engine.get_user("ada")).reserved
    await sqlite_kit.assert_balanced()


# --- the world fails ----------------------------------------------------------------------------


async def test_eaten_replies_hold_and_charge_once(
    redis_endpoint: Endpoint, sqlite_database: AsyncEngine, tmp_path: Path
) -> None:
    assert redis_endpoint.address.startswith("unix:"), "this needs the server of the run"
    server = redis_endpoint.address.removeprefix("unix:")
    retry = {"max_attempts": 100, "initial_delay": 0, "max_delay": 1}
    config: dict[str, Any] = {**CONFIG, "retry": retry}
    async with ReplyEater(tmp_path / "p", server, share=0.3, seed=5) as proxy:
        endpoint = Endpoint.from_url(f"unix://{tmp_path}/p")
        async with kit_on(config, endpoint, sqlite_database, None) as kit:
            await kit.engine.create_user("ada", credits=1_000)
            eaten = proxy.eaten

            async def block(number: int) -> None:
                async with kit.engine.hold("ada", "image", amount=3) as hold:
                    if number % 3 == 0:
                        raise UpstreamError
                    hold.used(amount=1)

            for number in range(60):
                await asyncio.gather(block(number), return_exceptions=True)

            assert proxy.eaten - eaten > 20
            proxy.share = 0
            user = await kit.engine.get_user("ada")
            assert (960, 0) == (user.credits, user.reserved)
            await kit.assert_balanced()


async def test_a_release_that_fails_does_not_hide_what_led_to_it(
    sqlite_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    credits = sqlite_kit.engine
    await credits.create_user("ada", credits=100)

    async def away(*_: Any, **__: Any) -> None:
        raise RedisUnavailableError("it is away")

    monkeypatch.setattr(credits._holding, "release", away)
    with pytest.raises(UpstreamError):
        await failing(credits.hold("ada", "image"))

    assert "was not released: it is away" in caplog.text
    assert 20 == (await credits.get_user("ada")).reserved
    await sqlite_kit.assert_balanced()
