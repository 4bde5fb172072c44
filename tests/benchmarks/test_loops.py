"""Both loops ask for everything once, keep what it gave, and time it from the right moment."""

from __future__ import annotations

import asyncio

import pytest

from credits_fast.benchmarks.loops import closed_loop, open_loop
from credits_fast.benchmarks.workload import Request
from credits_fast.errors import RedisUnavailableError

REQUESTS = [Request("ada", "chat", f"k{number}") for number in range(30)]


async def test_so_many_callers_are_waiting_at_once_and_no_more() -> None:
    waiting = most = 0

    async def ask(_: Request) -> None:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        for _turn in range(5):
            await asyncio.sleep(0)
        waiting -= 1

    await closed_loop(ask, REQUESTS, 7)

    assert 7 == most


@pytest.mark.parametrize("loop", ["closed", "open"])
async def test_every_request_is_asked_once_and_its_outcome_kept(loop: str) -> None:
    async def ask(request: Request) -> str:
        await asyncio.sleep(0)
        if request.key == "k3":
            raise RedisUnavailableError("gone")
        return str(request.key)

    if loop == "closed":
        answered = await closed_loop(ask, REQUESTS, 4)
    else:
        answered = await open_loop(ask, REQUESTS, [0.0] * len(REQUESTS))
    errors = [one for one in answered.outcomes if isinstance(one, RedisUnavailableError)]

    assert 1 == len(errors)
    assert {f"k{number}" for number in range(30)} - {"k3"} == {*answered.outcomes} - {*errors}
    assert len(REQUESTS) == len(answered.latencies_ms)


async def test_an_error_nobody_foresaw_ends_the_loop() -> None:
    async def ask(_: Request) -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        await closed_loop(ask, REQUESTS, 2)


async def test_in_an_open_loop_waiting_counts_from_when_a_call_should_have_begun() -> None:
    """Calls that were due a second before the start have waited for that second, though each is
    answered at once."""

    async def ask(_: Request) -> None:
        return None

    answered = await open_loop(ask, REQUESTS, [-1.0] * len(REQUESTS))

    assert min(answered.latencies_ms) >= 1_000


async def test_an_open_loop_does_not_wait_for_answers_before_it_asks_again() -> None:
    asked: list[str | None] = []
    last = asyncio.Event()

    async def ask(request: Request) -> None:
        asked.append(request.key)
        if len(asked) == len(REQUESTS):
            last.set()
        await last.wait()

    await open_loop(ask, REQUESTS, [0.0] * len(REQUESTS))

    assert [one.key for one in REQUESTS] == asked
