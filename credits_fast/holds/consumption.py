"""What a stream has consumed of its hold, counted: when to charge a part, and when to hold more.

    consumed   what the pieces so far cost                  at most what is covered
    settled    what of it was charged                       at most a step behind consumed
    covered    what was settled, and what the hold keeps    grows by extensions

Pure: no I/O, no clock. Amounts are micro-credits.
"""

from __future__ import annotations

from decimal import Decimal, Overflow
from typing import TYPE_CHECKING, Final

from credits_fast import arguments
from credits_fast.amounts import to_credits, to_micros
from credits_fast.errors import InvalidArgumentError
from credits_fast.exact import EXACT
from credits_fast.prices.pricing import Priced, quote_rest

if TYPE_CHECKING:
    from collections.abc import Callable

    from credits_fast.amounts import Amount
    from credits_fast.prices.pricing import Quote
    from credits_fast.types import Variables

__all__ = ["Consumption"]

_NOTHING: Final = Priced(Decimal(0), None, Decimal(0), None)


class Consumption:
    """The count of one stream.

    Args:
        reserved: What the hold was made with; where more is needed, it grows by as much.
        share: Which share of that may be consumed and not charged yet.
        estimate: The variables of the reservation: what is not told of them counts as 0.

    Attributes:
        consumed: What the pieces so far cost.
        settled: What of it was charged.
        covered: What was settled, and what the hold keeps besides.
    """

    def __init__(self, reserved: int, share: Decimal, estimate: Variables | None) -> None:
        self._reserved = reserved
        self._step = max(1, int(EXACT.multiply(reserved, share)))
        self._variables: dict[str, int | Decimal] = dict.fromkeys(estimate or (), 0)
        self._price = _NOTHING
        self.consumed = 0
        self.settled = 0
        self.covered = reserved

    def with_amount(self, amount: Amount) -> Priced:
        """The price of everything, a piece of this many credits included.

        Raises:
            InvalidAmountError: The amount cannot be used.
            InvalidArgumentError: The pieces before were told in variables.
        """
        if self._price.variables is not None:
            raise InvalidArgumentError("amount", "cannot follow variables in one block")
        cost = to_credits(self.consumed + to_micros(amount))
        return Priced(cost, None, cost, None)

    def with_variables(self, variables: Variables, price: Callable[[Variables], Priced]) -> Priced:
        """The price of everything, a piece with these variables included.

        Raises:
            InvalidArgumentError: A variable is no number from 0, or the pieces before were told in credits.
            CreditsError: What `price` raises.
        """
        if self.consumed and self._price.variables is None:
            raise InvalidArgumentError("variables", "cannot follow an amount in one block")
        arguments.check_variables(variables)
        sums = dict(self._variables)
        for name, value in variables.items():
            sums[name] = _sum(sums.get(name, 0), _number(name, value))
        priced = price(sums)
        whole = Priced(priced.cost, priced.formula, priced.raw_cost, sums)
        quote_rest(whole, self.settled)  # what could not be recorded is refused here
        return whole

    def has_room(self, price: Priced) -> bool:
        """Whether so much may be consumed without anything to be charged or held before."""
        consumed = to_micros(price.cost)
        return consumed <= self.covered and consumed - self.settled < self._step

    def short_of(self, price: Priced) -> int:
        """What the hold lacks for it."""
        return max(0, to_micros(price.cost) - self.covered)

    def growth(self, short: int) -> int:
        """By how much the hold should grow where it lacks so much: as much again as it was made with."""
        return max(short, self._reserved)

    def count(self, price: Priced) -> None:
        """Everything so far costs this."""
        self._price = price
        self.consumed = to_micros(price.cost)
        if price.variables is not None:
            self._variables = dict(price.variables)

    @property
    def is_due(self) -> bool:
        """Whether so much is consumed and not charged that a part has to be."""
        return self.consumed - self.settled >= self._step

    def rest(self) -> Quote:
        """The price of what is consumed and not charged."""
        return quote_rest(self._price, self.settled)


def _sum(one: int | Decimal, other: int | Decimal) -> int | Decimal:
    if isinstance(one, int) and isinstance(other, int):
        return one + other
    try:
        return EXACT.add(one, other)
    except Overflow as error:
        raise InvalidArgumentError("variables", "have a sum that is too large") from error


def _number(name: str, value: object) -> int | Decimal:
    number = Decimal(repr(value)) if type(value) is float else value
    if type(number) is int and number >= 0:
        return number
    if isinstance(number, Decimal) and number.is_finite() and number >= 0:
        return number
    shown = "negative" if type(value) is int else f"{value!r:.40}"  # Python writes no endless int
    raise InvalidArgumentError("variables", f"must be numbers from 0: {name!r:.40} is {shown}")
