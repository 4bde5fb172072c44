"""The demo's callers: many at once, each takes the next step, and the books note what came of it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypeVar

from credits_fast.cli.demo.books import Books, created_id
from credits_fast.cli.demo.scenario import ACTION, PACKS, Request
from credits_fast.errors import OutcomeUnknownError, RefusedError

if TYPE_CHECKING:
    from credits_fast.cli.demo.scenario import Person, Scenario, Step, TierMove
    from credits_fast.engine import CreditsEngine
    from credits_fast.types import ChargeResult, TierChangeResult

__all__ = ["Complaint", "Meter", "Run"]

_CREATORS: Final = 8
"""Users created at once: each is a commit of its own, and the database writes one at a time."""
_RENEWED_UNTIL: Final = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Complaint:
    """A charge to give back.

    Attributes:
        user: Whose.
        charge: Its transaction id.
        cost: What it took.
    """

    user: str
    charge: str
    cost: Decimal


@dataclass(slots=True)
class Meter:
    """How far it is, and how fast.

    Attributes:
        created: Users created.
        steps: Steps finished.
        refunds: Charges given back.
        latencies_ms: How long each call of `charge` took, refused and replayed ones included.
        started: When the first step began, by the monotonic clock.
        ended: When the last one had ended.
    """

    created: int = 0
    steps: int = 0
    refunds: int = 0
    latencies_ms: list[float] = field(default_factory=list[float])
    started: float = 0.0
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        """How long the steps have taken so far."""
        return (self.ended or time.monotonic()) - self.started if self.started else 0.0


class Run:
    """One run of a scenario.

    Attributes:
        books: What was acknowledged.
        meter: How far it is.
        complaints: Charges that are to be given back.

    Args:
        engine: An open engine without users.
        scenario: What to ask for.
        callers: How many steps are under way at once.
        speed: How many times faster than the scenario's own times; None for as fast as possible.
    """

    def __init__(
        self, engine: CreditsEngine, scenario: Scenario, callers: int, speed: float | None
    ) -> None:
        self.books = Books()
        self.meter = Meter()
        self.complaints: list[Complaint] = []
        self._engine = engine
        self._scenario = scenario
        self._callers = callers
        self._speed = speed
        self._tiers = {person.id: person.tier for person in scenario.people}
        self._top_ups: Counter[str] = Counter()

    async def create_people(self) -> None:
        """Create every user with the first credits."""
        await _share(_CREATORS, self._scenario.people, self._create)

    async def perform(self) -> None:
        """Take every step."""
        self.meter.started = time.monotonic()
        await _share(self._callers, self._scenario.steps, self._step)
        self.meter.ended = time.monotonic()

    async def give_back(self) -> None:
        """Refund what was complained about, once it is recorded: the ledger knows the charges."""

        async def refund(complaint: Complaint) -> None:
            await self._noted(self._refund(complaint))
            self.meter.refunds += 1

        await _share(self._callers, self.complaints, refund)

    async def _create(self, person: Person) -> None:
        await self._engine.create_user(person.id, credits=person.credits, tier=person.tier)
        first = Decimal(person.credits)
        self.books.acknowledge(created_id(person.id), person.id, "grant", first)
        self.meter.created += 1

    async def _step(self, step: Step) -> None:
        if self._speed is not None:
            due = self.meter.started + step.at / self._speed
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await self._noted(self._request(step) if isinstance(step, Request) else self._move(step))
        self.meter.steps += 1

    async def _noted(self, work: Awaitable[None]) -> None:
        """Do it; a refusal or an answer that never came is noted in the books."""
        try:
            await work
        except RefusedError as error:
            self.books.refusals[error.code] += 1
        except OutcomeUnknownError as error:
            self.books.unknown.add(error.operation_id)

    async def _request(self, request: Request) -> None:
        try:
            result = await self._charge(request)
        except RefusedError as error:
            if not request.tops_up:
                raise
            self.books.refusals[error.code] += 1
            await self._top_up(request.user)
            result = await self._charge(request)
        if request.key is not None:
            again = await self._charge(request)
            if again.transaction_id != result.transaction_id:
                self.books.again.append(again.transaction_id)
        if request.refunded and result.cost:
            self.complaints.append(Complaint(request.user, result.transaction_id, result.cost))

    async def _charge(self, request: Request) -> ChargeResult:
        started = time.perf_counter()
        try:
            result = await self._engine.charge(
                request.user,
                ACTION,
                variables={
                    "input_tokens": request.input_tokens,
                    "output_tokens": request.output_tokens,
                },
                idempotency_key=request.key,
            )
        finally:
            self.meter.latencies_ms.append((time.perf_counter() - started) * 1_000)
        self.books.acknowledge(
            result.transaction_id, request.user, "charge", -result.cost, replayed=result.replayed
        )
        return result

    async def _top_up(self, user: str) -> None:
        """Buy credits; requests of one user that find none at once share one purchase, by its key."""
        key = f"purchase-{self._top_ups[user]}"
        pack = PACKS[self._tiers[user]]
        result = await self._engine.grant(user, pack, "purchase", idempotency_key=key)
        if not result.replayed:
            self._top_ups[user] += 1
        self.books.acknowledge(
            result.transaction_id, user, "grant", result.amount, replayed=result.replayed
        )

    async def _refund(self, complaint: Complaint) -> None:
        result = await self._engine.refund(
            complaint.user, complaint.cost, ACTION, transaction_id=complaint.charge
        )
        self.books.acknowledge(result.transaction_id, complaint.user, "refund", result.amount)

    async def _move(self, move: TierMove) -> None:
        result = await self._change_tier(move)
        self.books.acknowledge(result.transaction_id, move.user, "tier", result.credits_delta)
        self.books.moves[move.move] += 1

    async def _change_tier(self, move: TierMove) -> TierChangeResult:
        match move.move:
            case "upgrade":
                return await self._engine.upgrade_tier(move.user, move.target)
            case "downgrade":
                return await self._engine.downgrade_tier(move.user, move.target)
            case "renewal":
                return await self._engine.renew_membership(move.user, _RENEWED_UNTIL)


_T = TypeVar("_T")


async def _share(
    number: int, work: Iterable[_T], do: Callable[[_T], Coroutine[None, None, None]]
) -> None:
    """Do all of it, so many at once; the first failure ends it."""
    rest = iter(work)

    async def worker() -> None:
        for item in rest:
            await do(item)

    workers = [asyncio.create_task(worker()) for _ in range(number)]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
