"""Callers cancelled and refused at random inside joined batches: no foreign reply, sums conserved."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from credits_fast import (
    ChargeResult,
    CreditsEngine,
    CreditsError,
    IdempotencyKeyConflictError,
    InsufficientCreditsError,
    MissingVariableError,
    UserNotFoundError,
)
from credits_fast.testing import CreditsKit

CALLERS = 600
USERS = 12
_MICRO = Decimal("0.000001")


@dataclass
class Outcomes:
    """What became of the callers, and which transaction of each user has used a key."""

    used: dict[str, str] = field(default_factory=dict[str, str])
    charged: dict[str, tuple[str, Decimal]] = field(default_factory=dict[str, tuple[str, Decimal]])
    refused: int = 0
    cancelled: int = 0


async def caller(
    engine: CreditsEngine, number: int, chance: random.Random, outcomes: Outcomes
) -> None:
    """One call, with an amount nobody else has; a reply for anybody else is known by it."""
    user, amount = f"user-{chance.randrange(USERS)}", 1 + number * _MICRO
    match chance.randrange(8):
        case 0:
            with pytest.raises(UserNotFoundError, match=f"nobody-{number}"):
                await engine.charge(f"nobody-{number}", "image", amount=amount)
        case 1:
            with pytest.raises(InsufficientCreditsError) as poor:
                await engine.charge(user, "image", amount=1_000_000 + number)
            assert (user, 1_000_000 + number) == (poor.value.user_id, poor.value.required)
        case 2:
            with pytest.raises(MissingVariableError, match="tokens"):
                await engine.charge(user, "chat", variables={f"other{number}": 1})
        case 3:
            with pytest.raises(IdempotencyKeyConflictError, match=outcomes.used[user]):
                await engine.charge(user, "image", amount=amount, idempotency_key="used")
        case _:
            await charge(engine, user, amount, f"key-{number}", outcomes)
            return
    outcomes.refused += 1


async def charge(
    engine: CreditsEngine, user: str, amount: Decimal, key: str, outcomes: Outcomes
) -> None:
    result = await engine.charge(user, "image", amount=amount, idempotency_key=key)
    assert amount == result.cost
    assert amount == result.balance_before - result.balance_after
    assert result.transaction_id not in outcomes.charged
    outcomes.charged[result.transaction_id] = (user, amount)


async def cancelled_at_random(
    task: asyncio.Task[None], chance: random.Random, outcomes: Outcomes
) -> None:
    """Let the task be for some turns of the loop, then cancel it, if it is still there."""
    for _ in range(chance.randrange(12)):
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        outcomes.cancelled += 1


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nobody_gets_a_neighbours_reply_or_fate(kit: CreditsKit, seed: int) -> None:
    chance, outcomes, engine = random.Random(seed), Outcomes(), kit.engine
    for number in range(USERS):
        user = f"user-{number}"
        await engine.create_user(user, credits=10_000)
        first = await engine.charge(user, "image", amount=1, idempotency_key="used")
        outcomes.used[user] = first.transaction_id

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            task = asyncio.create_task(caller(engine, number, chance, outcomes))
            if chance.random() < 0.3:
                group.create_task(cancelled_at_random(task, chance, outcomes))
            else:
                group.create_task(_joined(task))
            if chance.random() < 0.05:
                await asyncio.sleep(0)

    assert outcomes.cancelled > CALLERS // 20
    assert outcomes.refused > CALLERS // 10
    assert CALLERS == outcomes.cancelled + outcomes.refused + len(outcomes.charged)
    await kit.assert_balanced()
    recorded = {
        row.id: (row.user_id, -row.amount)
        for number in range(USERS)
        for row in await kit.transactions(f"user-{number}")
        if row.kind == "charge" and row.idempotency_key != "used"
    }
    assert outcomes.charged.items() <= recorded.items()
    assert len(recorded) - len(outcomes.charged) <= outcomes.cancelled


async def test_charge_many_gives_each_its_own_outcome_in_order(kit: CreditsKit) -> None:
    from credits_fast import Charge

    await kit.engine.create_user("ada", credits=100)
    charges = [
        Charge(user_id="ada" if number % 3 else "nobody", action="image", amount=number * _MICRO)
        for number in range(90)
    ]

    outcomes = await kit.engine.charge_many(charges)

    for number, outcome in enumerate(outcomes):
        if number % 3:
            assert isinstance(outcome, ChargeResult)
            assert number * _MICRO == outcome.cost
        else:
            assert isinstance(outcome, CreditsError)
            assert isinstance(outcome, UserNotFoundError)
    await kit.assert_balanced()


async def _joined(task: asyncio.Task[None]) -> None:
    await task
