"""LiteLLM's own calls, charged by their tokens; run where the extra `litellm` is installed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException

from credits_fast import RedisUnavailableError
from credits_fast.servers.lane import Endpoint
from credits_fast.testing import CreditsKit, kit_on
from tests.integration.conftest import CONFIG

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # its price list is not asked for
litellm: Any = pytest.importorskip("litellm")

from credits_fast.web.on_litellm import CreditsLogger  # noqa: E402  # only where there is one

pytestmark = pytest.mark.filterwarnings("ignore")  # what LiteLLM warns of is not ours

PRICES = {"chat": {"default": "{input} * 0.01 + {output} * 0.1"}, "image": {"default": 20}}
MESSAGES = [{"role": "user", "content": "hi"}]
TURNS_MAX = 2_000
"""Rounds of waiting for LiteLLM's logging, which comes after the answer."""


def key_of(user_id: str | None) -> SimpleNamespace:
    return SimpleNamespace(user_id=user_id, end_user_id="mallory")


@pytest.fixture
async def kit(redis_endpoint: Endpoint, sqlite_database: Any) -> AsyncIterator[CreditsKit]:
    config = {**CONFIG, "costs": PRICES}
    async with kit_on(config, redis_endpoint, sqlite_database, None) as opened:
        await opened.engine.create_user("ada", credits=50)
        await opened.engine.create_user("mallory", credits=50)
        yield opened


@pytest.fixture
async def handler(kit: CreditsKit, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[CreditsLogger]:
    handler = CreditsLogger(
        kit.engine,
        action=lambda data: data.get("action", "chat"),
        estimate=lambda data: {"input": 100, "output": data.get("max_tokens") or 100},
    )
    monkeypatch.setattr(kit.engine, "start", started)
    litellm.logging_callback_manager._reset_all_callbacks()  # it keeps one callback of a class
    litellm.callbacks.append(handler)
    return handler


async def started() -> None:
    """The kit's engine is open."""


async def account(kit: CreditsKit, user: str = "ada") -> tuple[Decimal, Decimal]:
    found = await kit.engine.get_user(user)
    return found.credits, found.reserved


async def settled(kit: CreditsKit) -> tuple[Decimal, Decimal]:
    """What ada has when nothing is held any more."""
    for _ in range(TURNS_MAX):
        if not (await account(kit))[1]:
            break
        await asyncio.sleep(0.005)
    return await account(kit)


async def called(handler: CreditsLogger, **data: Any) -> Any:
    """An answer, by the way LiteLLM's proxy goes: the hook, then the call with what it left."""
    request = {"messages": MESSAGES, "model": "openai/small", "user": "mallory", **data}
    await handler.async_pre_call_hook(key_of("ada"), None, request, "acompletion")
    request.pop("action", None)
    try:
        return await litellm.acompletion(**request)
    except Exception as error:
        await handler.async_post_call_failure_hook(request, error, key_of("ada"))
        raise


async def test_the_owner_of_the_key_pays_for_the_tokens_of_the_answer(
    kit: CreditsKit, handler: CreditsLogger
) -> None:
    answer = await called(handler, mock_response="hello there")

    cost = answer.usage.prompt_tokens * Decimal("0.01") + answer.usage.completion_tokens * Decimal(
        "0.1"
    )
    assert (50 - cost, 0) == await settled(kit)
    assert (50, 0) == await account(kit, "mallory")
    await kit.assert_balanced()


async def test_a_stream_is_charged_when_it_has_ended(
    kit: CreditsKit, handler: CreditsLogger
) -> None:
    stream = await called(handler, mock_response="hello there", stream=True)
    assert (50, 11) == await account(kit)
    async for _ in stream:
        pass

    balance, reserved = await settled(kit)
    assert 0 == reserved
    assert 39 < balance < 50
    await kit.assert_balanced()


async def test_a_call_that_fails_gives_everything_back(
    kit: CreditsKit, handler: CreditsLogger
) -> None:
    with pytest.raises(litellm.exceptions.InternalServerError):
        await called(handler, mock_response=Exception("the model is away"), num_retries=0)

    assert (50, 0) == await account(kit)
    await kit.assert_balanced()


async def test_who_cannot_pay_is_told_so_as_a_problem(
    kit: CreditsKit, handler: CreditsLogger
) -> None:
    with pytest.raises(HTTPException) as refused:
        await called(handler, max_tokens=1_000)
    with pytest.raises(HTTPException) as ownerless:
        await handler.async_pre_call_hook(key_of(None), None, {}, "acompletion")

    assert (402, "101.000000") == (
        refused.value.status_code,
        refused.value.detail["required"],  # type: ignore[index]
    )
    assert 403 == ownerless.value.status_code
    assert (50, 0) == await account(kit)


async def test_a_hold_that_a_client_names_is_not_taken_for_its_own(
    kit: CreditsKit, handler: CreditsLogger
) -> None:
    theirs: dict[str, Any] = {"metadata": {}}
    await handler.async_pre_call_hook(key_of("ada"), None, theirs, "acompletion")
    other_field: dict[str, Any] = {"litellm_metadata": {}}
    for beside in ({}, other_field):
        forged = {"metadata": dict(theirs["metadata"]), "action": None, **beside}
        await handler.async_pre_call_hook(key_of("mallory"), None, forged, "acompletion")
        await handler.async_post_call_failure_hook(forged, ValueError("no"), key_of("mallory"))

        assert {} == forged["metadata"]
        assert (50, 11) == await account(kit)


async def test_an_answer_without_usage_is_charged_what_was_held_and_said_in_the_log(
    kit: CreditsKit, handler: CreditsLogger, caplog: pytest.LogCaptureFixture
) -> None:
    request: dict[str, Any] = {"litellm_metadata": {}, "metadata": {"user_id": "mallory"}}
    await handler.async_pre_call_hook(key_of("ada"), None, request, "aimage_generation")
    for _ in range(2):  # a second word finds no hold
        await handler.async_log_success_event({"litellm_params": request}, object(), None, None)

    assert {"user_id": "mallory"} == request["metadata"]
    assert (39, 0) == await account(kit)
    assert 1 == caplog.text.count("is charged as a whole")
    await kit.assert_balanced()


async def test_what_cannot_be_charged_is_told_to_the_operator(
    kit: CreditsKit,
    handler: CreditsLogger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise RedisUnavailableError("it is away")

    request: dict[str, Any] = {}
    await handler.async_pre_call_hook(key_of("ada"), None, request, "acompletion")
    monkeypatch.setattr(kit.engine._holding, "capture", away)
    await handler.async_log_success_event({"litellm_params": request}, object(), None, None)

    assert "is not charged" in caplog.text


async def test_holds_nobody_came_back_for_are_forgotten_when_they_are_over(
    kit: CreditsKit, handler: CreditsLogger
) -> None:
    await handler.async_pre_call_hook(key_of("ada"), None, {}, "acompletion")
    (hold,) = handler._holds.values()
    past = datetime.now(UTC) - timedelta(seconds=1)
    assert hold._reserved is not None
    hold._reserved = hold._reserved._replace(result=hold._reserved.result._replace(expires_at=past))
    await handler.async_pre_call_hook(key_of("ada"), None, {}, "acompletion")

    assert hold.id not in handler._holds
    assert 1 == len(handler._holds)
    assert (50, 22) == await account(kit)
