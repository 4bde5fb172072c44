"""What an engine counts: every call once, by how it ended; and what Prometheus is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import pytest
from prometheus_client import CollectorRegistry

from credits_fast import (
    InsufficientCreditsError,
    InvalidArgumentError,
    OutcomeUnknownError,
    UserNotFoundError,
)
from credits_fast.calls.dispatch import Dispatcher
from credits_fast.engine_metrics import EngineMetrics
from credits_fast.testing import CreditsKit, open_kit

CONFIG: dict[str, Any] = {"costs": {"request": {"default": 1}}, "membership": {"tiers": {}}}


@pytest.fixture
async def kit() -> AsyncIterator[CreditsKit]:
    async with open_kit(CONFIG) as opened:
        await opened.engine.create_user("ada", credits=10)
        opened.engine.calls.clear()
        yield opened


async def test_every_call_is_counted_once_by_how_it_ended(kit: CreditsKit) -> None:
    credits = kit.engine
    for _ in range(3):
        await credits.charge("ada", "request", idempotency_key="k")
    with pytest.raises(InsufficientCreditsError):
        await credits.charge("ada", "request", amount=100)
    with pytest.raises(UserNotFoundError):
        await credits.charge("bob", "request")
    with pytest.raises(InvalidArgumentError):
        await credits.charge("ada", "request", idempotency_key="\0")
    async with credits.hold("ada", "request"):
        pass

    assert {
        ("charge", "done"): 1,
        ("charge", "replayed"): 2,
        ("charge", "INSUFFICIENT_CREDITS"): 1,
        ("charge", "USER_NOT_FOUND"): 1,
        ("reserve", "done"): 1,
        ("capture", "done"): 1,
    } == credits.calls


async def test_what_nobody_can_tell_is_counted_as_that(kit: CreditsKit) -> None:
    def lost(*_: Any) -> asyncio.Future[bytes]:
        answer = asyncio.get_running_loop().create_future()
        answer.set_exception(OutcomeUnknownError("id", "the reply was lost"))
        return answer

    with patch.object(Dispatcher, "submit", lost), pytest.raises(OutcomeUnknownError):
        await kit.engine.charge("ada", "request")
    with patch.object(Dispatcher, "submit", _never):
        call = asyncio.create_task(kit.engine.charge("ada", "request"))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    assert {("charge", "OUTCOME_UNKNOWN"): 1, ("charge", "cancelled"): 1} == kit.engine.calls


async def test_a_level_of_acknowledgement_is_counted_like_any_other(kit: CreditsKit) -> None:
    charge = asyncio.create_task(kit.engine.charge("ada", "request", acknowledge="committed"))
    while not charge.done():
        await kit.sync()

    assert {("charge", "done"): 1} == kit.engine.calls


async def test_the_registry_of_an_application_gets_the_counters(kit: CreditsKit) -> None:
    registry = CollectorRegistry()
    registry.register(EngineMetrics(kit.engine))
    for _ in range(2):
        await kit.engine.charge("ada", "request", idempotency_key="k")

    found = {
        outcome: registry.get_sample_value(
            "credits_fast_calls_total", {"verb": "charge", "outcome": outcome}
        )
        for outcome in ("done", "replayed", "cancelled")
    }
    assert {"done": 1.0, "replayed": 1.0, "cancelled": None} == found


def _never(*_: Any) -> asyncio.Future[bytes]:
    return asyncio.get_running_loop().create_future()
