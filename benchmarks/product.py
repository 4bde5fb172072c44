"""The contestant: charges through `CreditsEngine`, held first or not, and the books of what it said."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from credits_fast.errors import InsufficientCreditsError
from credits_fast.types import CaptureResult, ChargeResult

if TYPE_CHECKING:
    from credits_fast.benchmarks.workload import Request
    from credits_fast.engine import CreditsEngine
    from credits_fast.errors import CreditsError

__all__ = ["Books", "Product"]


@dataclass(slots=True)
class Books:
    """What was acknowledged to the harness, kept by the harness alone.

    Attributes:
        charges: Charges that took effect, captures among them.
        reservations: Holds that were made for captures.
        keyed: How many of them had a key.
        credits: What they took.
        replays: Calls that were answered with the first result.
        refusals: Calls that were refused for want of credits.
    """

    charges: int = 0
    reservations: int = 0
    keyed: int = 0
    credits: Decimal = Decimal(0)
    replays: int = 0
    refusals: int = 0

    def note(
        self, outcomes: Iterable[ChargeResult | CreditsError], *, is_keyed: bool = True
    ) -> None:
        """Write down what calls gave, of a workload with keys or without.

        Raises:
            CreditsError: A call failed in a way no workload asks for.
        """
        for outcome in outcomes:
            if isinstance(outcome, InsufficientCreditsError):
                self.refusals += 1
            elif not isinstance(outcome, ChargeResult):
                raise outcome
            elif outcome.replayed:
                self.replays += 1
            else:
                self.charges += 1
                self.keyed += is_keyed
                self.credits += outcome.cost

    def note_captures(self, outcomes: Iterable[CaptureResult | CreditsError]) -> None:
        """Write down what holds gave, each reserved with a key and captured once.

        Raises:
            CreditsError: A call failed.
        """
        for outcome in outcomes:
            if not isinstance(outcome, CaptureResult):
                raise outcome
            self.charges += 1
            self.reservations += 1
            self.keyed += 1
            self.credits += outcome.cost


class Product:
    """Charges by the engine.

    Attributes:
        books: What was acknowledged so far.
    """

    def __init__(self, engine: CreditsEngine) -> None:
        self.books = Books()
        self._engine = engine

    def ask(self, request: Request) -> Coroutine[Any, Any, ChargeResult]:
        """One charge, to be awaited."""
        user, action, key, variables = request
        return self._engine.charge(user, action, variables=variables, idempotency_key=key)

    async def hold(self, request: Request) -> CaptureResult:
        """One charge that is held first: a reservation, and the capture of all of it."""
        user, action, key, variables = request
        engine = self._engine
        made = await engine.reserve(user, action, variables=variables, idempotency_key=key)
        return await engine.capture(user, action, made.hold_id)
