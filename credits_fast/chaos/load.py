"""Callers that ask, and write down everything they asked and were answered.

Each caller asks for one thing after another: something new, now and then something it was answered
already (which must be answered in the same way), now and then something else under a key that is
taken. What got no answer is asked again by half of the callers, under the same key, as a program would;
the other half gives up, and only the ledger knows. Every other charge without a key is held first, and
written down is its capture.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from credits_fast.amounts import MICROS_PER_CREDIT, to_credits
from credits_fast.chaos.history import Asked, Attempt, Outcome
from credits_fast.errors import (
    CreditsError,
    OutcomeUnknownError,
    RefusedError,
    UnavailableError,
    UnsuitableServerError,
)

if TYPE_CHECKING:
    from decimal import Decimal

    from credits_fast.chaos.wishes import Wishes
    from credits_fast.engine import CreditsEngine

__all__ = ["Load", "Manners"]

_CANCELLED: Final = "CANCELLED"
_ACTION: Final = "chaos"
_TRIES_MAX: Final = 5
_BETWEEN_TRIES_S: Final = 0.05
_HELD_MS: Final = 2_000
"""For how long a charge is held at most that is reserved first; what nobody captures expires."""
_REMEMBERED_MAX: Final = 500
_SETTLED_MAX: Final = 1_000
_SETTLED_AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How callers behave.

    Attributes:
        callers: How many ask at once, spread over the engines.
        pause_ms: The longest pause between two things a caller asks for; each is drawn anew from 0 on.
        repeats: The share of calls that repeat one that was answered.
        conflicts: The share of calls that use a taken key for something else.
        cancels: The share of calls whose caller gives up.
        cancels_within_ms: When it does at the latest; drawn anew from 0 on.
    """

    callers: int = 16
    pause_ms: float = 20.0
    repeats: float = 0.05
    conflicts: float = 0.02
    cancels: float = 0.0
    cancels_within_ms: float = 4.0


class Load:
    """Callers of a run; see the module.

    Attributes:
        history: Every attempt, in the order of their end.
        acknowledged: How many of them were acknowledged.
        surprises: Errors the library does not document, by their name.

    Args:
        engines: What is asked.
        wishes: What is asked for.
        manners: How callers behave.
        seed: For the choices of the callers.
    """

    def __init__(
        self, engines: Sequence[CreditsEngine], wishes: Wishes, manners: Manners, seed: str
    ) -> None:
        self.history: list[Attempt] = []
        self.acknowledged = 0
        self.surprises: Counter[str] = Counter()
        self._engines = engines
        self._wishes = wishes
        self._manners = manners
        self._seed = seed
        self._answered: list[Asked] = []
        self._unsettled: dict[int, Asked] = {}
        self._is_ending = False
        self._callers = 0

    @asynccontextmanager
    async def asking(self) -> AsyncGenerator[None, None]:
        """Have callers ask until the work inside is done; what is under way then is awaited.

        Raises:
            ExceptionGroup: A caller fell over: a bug of the kit.
        """
        self._is_ending = False
        async with asyncio.TaskGroup() as group:
            for number in range(self._manners.callers):
                self._callers += 1
                chance = random.Random(f"{self._seed}/caller {self._callers}")
                group.create_task(self._ask_on(number, chance))
            try:
                yield
            finally:
                self._is_ending = True

    async def settle(self) -> None:
        """Ask again for half of what is unsettled and has a key; the rest is for the ledger to say."""
        unsettled = [one for one in self._unsettled.values() if one.key and one.number % 2]
        for start in range(0, min(len(unsettled), _SETTLED_MAX), _SETTLED_AT_ONCE):
            some = unsettled[start : start + _SETTLED_AT_ONCE]
            await asyncio.gather(*(self.ask(asked, self._engines[0]) for asked in some))

    async def ask(self, asked: Asked, engine: CreditsEngine, **metadata: object) -> Attempt:
        """One attempt, written down.

        Args:
            asked: What is asked for.
            engine: What is asked.
            metadata: What goes into the metadata beside the operation's number.
        """
        began = time.monotonic_ns()
        try:
            result = await _call(engine, asked, {"operation": asked.number, **metadata})
        except asyncio.CancelledError:
            self._note(Attempt(asked, began, time.monotonic_ns(), Outcome.AMBIGUOUS, _CANCELLED))
            raise
        except Exception as error:  # noqa: BLE001  # a surprise is what we are here for: it is counted
            ended = time.monotonic_ns()
            return self._note(Attempt(asked, began, ended, self._outcome(error), _code(error)))
        return self._note(
            Attempt(
                asked,
                began,
                time.monotonic_ns(),
                Outcome.ACKNOWLEDGED,
                transaction_id=result.transaction_id,
                micros=_micros(result.cost if asked.verb == "charge" else result.amount),
                balance_after=_micros(result.balance_after),
                replayed=result.replayed,
            )
        )

    async def _ask_on(self, number: int, chance: random.Random) -> None:
        engine = self._engines[number % len(self._engines)]
        while not self._is_ending:
            asked = self._wish(chance)
            attempt = await self._perhaps_cancelled(asked, engine, chance)
            tries, persists = 1, number % 2 == 0
            while attempt.outcome is Outcome.AMBIGUOUS and asked.key and persists:
                if tries == _TRIES_MAX or self._is_ending:
                    break
                await asyncio.sleep(chance.uniform(0, _BETWEEN_TRIES_S))
                attempt, tries = await self.ask(asked, engine), tries + 1
            await asyncio.sleep(chance.uniform(0, self._manners.pause_ms) / 1_000)

    def _wish(self, chance: random.Random) -> Asked:
        drawn, manners = chance.random(), self._manners
        if self._answered and drawn < manners.repeats + manners.conflicts:
            answered = chance.choice(self._answered)
            if drawn < manners.repeats:
                return answered
            return self._wishes.under_the_same_key(answered)
        return self._wishes.next()

    async def _perhaps_cancelled(
        self, asked: Asked, engine: CreditsEngine, chance: random.Random
    ) -> Attempt:
        """The attempt; given up at a random moment where its caller is impatient."""
        if chance.random() >= self._manners.cancels:
            return await self.ask(asked, engine)
        task = asyncio.create_task(self.ask(asked, engine))
        try:
            async with asyncio.timeout(chance.uniform(0, self._manners.cancels_within_ms) / 1_000):
                return await task
        except TimeoutError:
            written = (one for one in reversed(self.history) if one.asked == asked)
            now = time.monotonic_ns()  # a task that is cancelled at once never begins
            return next(written, None) or self._note(
                Attempt(asked, now, now, Outcome.AMBIGUOUS, _CANCELLED)
            )

    def _note(self, attempt: Attempt) -> Attempt:
        self.history.append(attempt)
        asked = attempt.asked
        if attempt.outcome is Outcome.AMBIGUOUS:
            self._unsettled[asked.number] = asked
        elif attempt.outcome is not Outcome.UNAVAILABLE:
            self._unsettled.pop(asked.number, None)
        if attempt.outcome is Outcome.ACKNOWLEDGED:
            self.acknowledged += 1
            if asked.key is not None and not attempt.replayed:
                self._remember(asked)
        return attempt

    def _remember(self, asked: Asked) -> None:
        if len(self._answered) == _REMEMBERED_MAX:
            self._answered[asked.number % _REMEMBERED_MAX] = asked
        else:
            self._answered.append(asked)

    def _outcome(self, error: Exception) -> Outcome:
        match error:
            case RefusedError():
                return Outcome.REFUSED
            case OutcomeUnknownError():
                return Outcome.AMBIGUOUS
            case UnavailableError() | UnsuitableServerError():
                return Outcome.UNAVAILABLE
            case CreditsError():
                return Outcome.AMBIGUOUS
            case _:
                self.surprises[f"{type(error).__name__}: {error}"[:200]] += 1
                return Outcome.AMBIGUOUS


async def _call(engine: CreditsEngine, asked: Asked, metadata: dict[str, Any]) -> Any:
    amount = to_credits(asked.micros)
    if asked.is_held:
        held = await engine.reserve(asked.user, _ACTION, amount=amount, ttl_ms=_HELD_MS)
        return await engine.capture(asked.user, _ACTION, held.hold_id, metadata=metadata)
    if asked.verb == "charge":
        return await engine.charge(
            asked.user, _ACTION, amount=amount, idempotency_key=asked.key, metadata=metadata
        )
    give = engine.grant if asked.verb == "grant" else engine.refund
    return await give(asked.user, amount, _ACTION, idempotency_key=asked.key, metadata=metadata)


def _code(error: Exception) -> str:
    return error.code if isinstance(error, CreditsError) else type(error).__name__


def _micros(amount: Decimal) -> int:
    """Whole micro-credits, below zero too: that is what must be noticed."""
    return int(amount * MICROS_PER_CREDIT)
