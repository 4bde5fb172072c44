"""Calls made by so many callers at once, or at a constant rate; each timed, nothing else done meanwhile.

What a call gave is kept and looked at afterwards. Both loops end by themselves: the number of calls
is known, and a section that lasts far too long is an error.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

from credits_fast.errors import CreditsError

if TYPE_CHECKING:
    from credits_fast.benchmarks.workload import Request

__all__ = ["Answered", "closed_loop", "open_loop"]

_T = TypeVar("_T")

_SECTION_S: Final = 120
"""Seconds a measurement may last; it means a server has stopped answering."""


@dataclass(slots=True)
class Answered(Generic[_T]):
    """What came of some calls.

    Attributes:
        seconds: From the first call to the last answer.
        cpu_s: CPU time of this process meanwhile.
        latencies_ms: How long each call took; in an open loop from when it should have begun.
        outcomes: What each call gave, or the library's error.
    """

    seconds: float = 0.0
    cpu_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list[float])
    outcomes: list[_T | CreditsError] = field(default_factory=list[_T | CreditsError])

    def __iadd__(self, later: Answered[_T]) -> Self:
        """What came of these calls, and then of some more."""
        self.seconds += later.seconds
        self.cpu_s += later.cpu_s
        self.latencies_ms += later.latencies_ms
        self.outcomes += later.outcomes
        return self


async def closed_loop(
    ask: Callable[[Request], Awaitable[_T]], requests: Sequence[Request], callers: int
) -> Answered[_T]:
    """So many callers, each asking for the next request as soon as its last one is answered.

    Raises:
        TimeoutError: It did not end.
    """
    answered = Answered[_T]()
    left = iter(requests)

    async def caller() -> None:
        for request in left:
            begun = time.perf_counter()
            try:
                outcome: _T | CreditsError = await ask(request)
            except CreditsError as error:
                outcome = error
            answered.latencies_ms.append((time.perf_counter() - begun) * 1_000)
            answered.outcomes.append(outcome)

    with _timed(answered):
        async with asyncio.timeout(_SECTION_S), asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
    return answered


async def open_loop(
    ask: Callable[[Request], Awaitable[_T]], requests: Sequence[Request], begins: Sequence[float]
) -> Answered[_T]:
    """Each request at its own moment, whether or not earlier ones are answered.

    The loop never sleeps: a timer of the event loop is a millisecond coarse, longer than a call takes.
    What it burns while waiting is not counted in any figure.

    Args:
        ask: Asks for one request.
        requests: What is asked for.
        begins: Seconds from the start, rising, one for each request.

    Raises:
        TimeoutError: It did not end.
    """
    answered = Answered[_T]()

    async def one(request: Request, due: float) -> None:
        try:
            outcome: _T | CreditsError = await ask(request)
        except CreditsError as error:
            outcome = error
        answered.latencies_ms.append((time.perf_counter() - due) * 1_000)
        answered.outcomes.append(outcome)

    with _timed(answered):
        async with asyncio.timeout(_SECTION_S), asyncio.TaskGroup() as group:
            begun, at = time.perf_counter(), 0
            while at < len(requests):
                now = time.perf_counter() - begun
                while at < len(requests) and begins[at] <= now:
                    group.create_task(one(requests[at], begun + begins[at]))
                    at += 1
                await asyncio.sleep(0)
    return answered


@contextmanager
def _timed(answered: Answered[_T]) -> Generator[None, None, None]:
    """Time what is done inside; what was there before is out of the garbage collector's sight.

    The harness keeps hundreds of thousands of requests and results. To look through them again and again
    would be counted as latency, of the product and the baselines alike, and no application has them.
    """
    gc.collect()
    gc.freeze()
    cpu, begun = time.process_time(), time.perf_counter()
    try:
        yield
    finally:
        answered.seconds = time.perf_counter() - begun
        answered.cpu_s = time.process_time() - cpu
        gc.unfreeze()
