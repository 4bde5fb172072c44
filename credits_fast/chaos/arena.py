"""What a scenario is given: a stage, callers, a generator of chances, and a place to say what it has done.

A scenario counts its faults, says when an outage ended, names what may be lost, and may expect more than
the invariants do. It never waits for a time, but for calls, with a bound on the time of waiting.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from credits_fast.chaos.checker import Outage, Window
from credits_fast.errors import CreditsError

if TYPE_CHECKING:
    import random

    from credits_fast.chaos.load import Load
    from credits_fast.chaos.stage import Stage
    from credits_fast.chaos.watch import Watch
    from credits_fast.chaos.wishes import Wishes

__all__ = ["Arena", "Expectation", "Size", "StuckError"]

WAIT_S: Final = 30.0
"""Seconds a scenario waits for anything at most."""
_LOOK_S: Final = 0.005


class StuckError(Exception):
    """Something a scenario waited for did not happen."""


class Expectation(NamedTuple):
    """Something a scenario expects beside the invariants.

    Attributes:
        what: What, as a sentence.
        is_met: Whether it was so.
    """

    what: str
    is_met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of a scenario is played.

    Attributes:
        rounds: How often its fault is injected.
        calls: Calls between two faults.
    """

    rounds: int
    calls: int


@dataclass(slots=True)
class Arena:
    """A scenario's world; see the module.

    Attributes:
        stage: Servers, proxies, engines and workers.
        load: The callers.
        wishes: What they ask for.
        watch: Positions over time.
        chance: The scenario's own generator.
        size: How much is played.
        faults: How often each fault was injected, those of the proxies aside.
        observations: What else was counted on the way, by name.
        outages: The faults after which charges have to go on.
        may_lose: When what is acknowledged may be lost.
        may_forget: Whether Redis was made to forget keys that the ledger remembers.
        may_remember: Whether Redis remembers what the ledger may have lost.
        may_move: When what is acknowledged may be recorded with another balance.
        expectations: What was expected beside the invariants.
    """

    stage: Stage
    load: Load
    wishes: Wishes
    watch: Watch
    chance: random.Random
    size: Size
    faults: Counter[str] = field(default_factory=Counter[str])
    observations: Counter[str] = field(default_factory=Counter[str])
    outages: list[Outage] = field(default_factory=list[Outage])
    may_lose: list[Window] = field(default_factory=list[Window])
    may_move: list[Window] = field(default_factory=list[Window])
    may_forget: bool = False
    may_remember: bool = False
    expectations: list[Expectation] = field(default_factory=list[Expectation])

    @asynccontextmanager
    async def outage(self, fault: str) -> AsyncGenerator[None, None]:
        """A fault that lasts as long as the work inside; after it charges have to go on."""
        self.faults[fault] += 1
        yield
        self.outages.append(Outage(fault, time.monotonic_ns()))

    def expect(self, what: str, *, is_met: bool) -> None:
        """Expect something beside the invariants."""
        self.expectations.append(Expectation(what, is_met))

    async def calls(self, number: int | None = None) -> None:
        """Wait until so many more calls have ended, those between two faults where none is named.

        Raises:
            StuckError: They do not end.
        """
        enough = len(self.load.history) + (self.size.calls if number is None else number)
        await self.until(lambda: _is(len(self.load.history) >= enough), "calls end")

    async def acknowledgements(self, number: int) -> None:
        """Wait until so many more calls were acknowledged.

        Raises:
            StuckError: They are not.
        """
        enough = self.load.acknowledged + number
        await self.until(lambda: _is(self.load.acknowledged >= enough), "calls are acknowledged")

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for a condition, asked again and again.

        Raises:
            StuckError: It does not come true.
        """
        deadline = time.monotonic() + WAIT_S
        while not await condition():
            if time.monotonic() > deadline:
                raise StuckError(f"in vain for {WAIT_S:.0f} s: {what}")
            await asyncio.sleep(_LOOK_S)

    async def recorded(self) -> None:
        """Wait until the ledger has everything of this moment.

        Raises:
            StuckError: It does not get there.
        """

        async def is_recorded() -> bool:
            try:
                await self.stage.engine.wait_recorded(timeout_ms=1_000)
            except CreditsError:
                return False
            return True

        await self.until(is_recorded, "everything is recorded")

    async def turns(self, most: int = 50) -> None:
        """Let the event loop turn a random number of times: a moment that no call can foresee."""
        for _ in range(self.chance.randint(0, most)):
            await asyncio.sleep(0)


async def _is(value: bool) -> bool:  # noqa: FBT001  # a value as something to await
    return value
