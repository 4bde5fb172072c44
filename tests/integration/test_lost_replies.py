"""Replies that are lost after the server has acted: the same operation again, never another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from credits_fast import (
    CaptureResult,
    ChargeResult,
    DatabaseUnavailableError,
    OutcomeUnknownError,
)
from credits_fast.servers.lane import Endpoint
from credits_fast.testing import CreditsKit, kit_on
from tests.integration.conftest import CONFIG
from tests.proxy import ReplyEater


@pytest.fixture
def server_socket(redis_endpoint: Endpoint) -> str:
    assert redis_endpoint.address.startswith("unix:"), "this needs the server of the run"
    return redis_endpoint.address.removeprefix("unix:")


@asynccontextmanager
async def eating(
    folder: Path, server_socket: str, database: AsyncEngine, *, share: float, seed: int
) -> AsyncGenerator[tuple[ReplyEater, CreditsKit], None]:
    """A kit that loses this share of the replies to its scripts, and never gives up."""
    retry = {"max_attempts": 100, "initial_delay": 0, "max_delay": 1}
    config: dict[str, Any] = {**CONFIG, "retry": retry}
    async with ReplyEater(folder / "p", server_socket, share=share, seed=seed) as proxy:
        endpoint = Endpoint.from_url(f"unix://{folder}/p")
        async with kit_on(config, endpoint, database, None) as kit:
            yield proxy, kit


async def test_eaten_replies_charge_once(
    server_socket: str,
    sqlite_database: AsyncEngine,
    tmp_path: Path,
) -> None:
    async with eating(tmp_path, server_socket, sqlite_database, share=0.3, seed=5) as (proxy, kit):
        await kit.engine.create_user("ada", credits=1_000)
        eaten = proxy.eaten
        results = [await kit.engine.charge("ada", "free", amount=1) for _ in range(100)]

        assert proxy.eaten - eaten > 20
        proxy.share = 0
        assert 100 == len({one.transaction_id for one in results})
        assert 900 == await kit.engine.query_balance("ada")
        await kit.assert_balanced()


async def test_a_capture_whose_reply_was_eaten_finishes_its_hold_once_and_is_told_what_it_cost(
    server_socket: str,
    sqlite_database: AsyncEngine,
    tmp_path: Path,
) -> None:
    """It has no record of its own: the journal tells, and where the worker was faster, the ledger."""
    async with eating(tmp_path, server_socket, sqlite_database, share=0.5, seed=8) as (proxy, kit):
        await kit.engine.create_user("ada", credits=1_000)
        told: list[CaptureResult] = []
        for number in range(60):
            held = await kit.engine.reserve("ada", "free", amount=3)
            asked = {"amount": 1 + number % 5, "above": "cap"} if number % 3 else {}
            told.append(await kit.engine.capture("ada", "free", held.hold_id, **asked))  # type: ignore[arg-type]  # by name
            if number % 7 == 0:
                await kit.sync()

        proxy.share = 0
        replayed = [number for number, one in enumerate(told) if one.replayed]
        assert len(replayed) > 10
        assert {True, False} == {number % 3 > 0 for number in replayed}
        left = Decimal(1_000)
        for number, one in enumerate(told):
            asked_for = 1 + number % 5 if number % 3 else 3
            assert (asked_for, min(3, asked_for), left) == (
                *(one.price, one.cost, one.balance_before),
            )
            left -= one.cost
            assert (left, 0, True) == (one.balance_after, one.reserved, one.finished)
        assert 60 == len({one.transaction_id for one in told})
        await kit.assert_balanced()


async def test_concurrent_callers_get_their_own_results_whatever_is_eaten(
    server_socket: str,
    sqlite_database: AsyncEngine,
    tmp_path: Path,
) -> None:
    names = [f"user-{number}" for number in range(10)]
    async with eating(tmp_path, server_socket, sqlite_database, share=0.3, seed=6) as (proxy, kit):
        for name in names:
            await kit.engine.create_user(name, credits=1_000)

        async def caller(name: str, amount: int) -> list[ChargeResult]:
            return [await kit.engine.charge(name, "free", amount=amount) for _ in range(30)]

        charged = await asyncio.gather(
            *(caller(name, amount + 1) for amount, name in enumerate(names))
        )

        assert proxy.eaten > 10
        proxy.share = 0
        for amount, results in enumerate(charged):
            assert {amount + 1} == {one.cost for one in results}
        await kit.assert_balanced()


async def test_an_outcome_nobody_can_tell_is_called_unknown_and_settled_later(
    server_socket: str,
    sqlite_database: AsyncEngine,
    tmp_path: Path,
) -> None:
    async with kit_on(
        CONFIG, Endpoint.from_url(f"unix://{server_socket}"), sqlite_database, None
    ) as kit:
        await kit.engine.create_user("ada", credits=100)
        proxy = ReplyEater(tmp_path / "p", server_socket, share=1, seed=7)
        station: Any = next(kit.engine.router._stations())
        real = station.endpoint
        async with proxy:
            await (await kit.engine.lane()).close()
            station.endpoint = Endpoint.from_url(f"unix://{tmp_path}/p")
            with pytest.raises(OutcomeUnknownError) as unknown:
                await kit.engine.charge("ada", "image", idempotency_key="k")
        station.endpoint = real

        assert 3 == proxy.eaten
        settled = await kit.engine.charge("ada", "image", idempotency_key="k")
        assert (True, unknown.value.operation_id) == (settled.replayed, settled.transaction_id)
        assert 80 == settled.balance_after
        await kit.assert_balanced()


async def test_a_caller_that_gives_up_leaves_its_neighbours_alone(
    server_socket: str,
    sqlite_database: AsyncEngine,
) -> None:
    """Cancelled at random moments; nobody gets a foreign reply, and the sums agree."""
    import random

    rng = random.Random(11)
    endpoint = Endpoint.from_url(f"unix://{server_socket}")
    async with kit_on(CONFIG, endpoint, sqlite_database, None) as kit:
        names = [f"user-{number}" for number in range(8)]
        for name in names:
            await kit.engine.create_user(name, credits=10_000)

        async def caller(amount: int, name: str) -> ChargeResult:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            return await kit.engine.charge(name, "free", amount=amount)

        finished = 0
        for _ in range(40):
            tasks = [
                asyncio.create_task(caller(amount + 1, name)) for amount, name in enumerate(names)
            ]
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(0)
            for task in rng.sample(tasks, 3):
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            for amount, outcome in enumerate(outcomes):
                if isinstance(outcome, ChargeResult):
                    finished += 1
                    assert amount + 1 == outcome.cost
                else:
                    assert isinstance(outcome, asyncio.CancelledError)

        assert finished >= 40 * 5
        await kit.assert_balanced()


@pytest.mark.parametrize("failing", ["load", "never_again"])
async def test_what_fails_after_a_lost_reply_does_not_say_that_nothing_was_charged(
    sqlite_kit: CreditsKit, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    await sqlite_kit.engine.create_user("ada", credits=100)
    courier: Any = sqlite_kit.engine._carrier._courier
    submitted = courier._dispatcher.submit
    lost = OutcomeUnknownError("0" * 32, "the reply was lost")

    def submit(call: Any, receipt: Any = None) -> asyncio.Future[bytes]:
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if courier._dispatcher.asked == 0:
            submitted(call, receipt).add_done_callback(lambda _: answer.set_exception(lost))
        else:  # Redis was wiped meanwhile
            answer.set_result(b"cold")
        courier._dispatcher.asked += 1
        return answer

    async def load(*_: Any) -> None:
        if failing == "load":
            raise DatabaseUnavailableError("it is away")

    courier._dispatcher.asked = 0
    monkeypatch.setattr(courier._dispatcher, "submit", submit)
    monkeypatch.setattr(courier._accounts, "load", load)
    with pytest.raises(OutcomeUnknownError) as unknown:
        await sqlite_kit.engine.charge("ada", "image")
    monkeypatch.undo()

    assert lost == unknown.value
    assert (await sqlite_kit.engine.resolve(unknown.value)).took_effect
    assert 80 == await sqlite_kit.engine.query_balance("ada")
