"""What an action costs: the price for every tier at once, so that the script can pick.

The tier lives with the account in Redis, the price list lives here. A quote therefore holds one
option for each tier that differs from the rest, and one for everyone else; a tier that may not act
has no price, and a price that cannot be worked out carries its error. Pure: no I/O, no clock.

Source of the selection rules: the reference Credit SDK. The price of the tier wins over `default`; a
number is the cost as it is; a formula is evaluated, unless no variables are given and `default` is a
number, which then is the cost.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from credits_fast import arguments, formula
from credits_fast.amounts import to_credits, to_micros
from credits_fast.config import DEFAULT_PRICE
from credits_fast.errors import (
    CreditsError,
    FormulaEvaluationError,
    InvalidArgumentError,
    MissingVariableError,
    UndefinedActionError,
)
from credits_fast.exact import EXACT, plain
from credits_fast.formula import Formula
from credits_fast.resp import bulks

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from credits_fast.amounts import Amount
    from credits_fast.config import CreditsConfig
    from credits_fast.types import Variables

__all__ = ["MAY_NOT_ACT", "UNPRICED", "Option", "PriceList", "Priced", "Quote", "quote_rest"]

MAY_NOT_ACT: Final = b"-"
"""The cost of an option whose tier does not satisfy the action's requirement."""
UNPRICED: Final = b"!"
"""The cost of an option whose price cannot be worked out."""

_EVERYONE_ELSE: Final = b""
_VARIABLES_BYTES_MAX: Final = 2_048
_NUMBER_EXPONENT_MAX: Final = 30
_SHOWN_MAX: Final = 40

_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Priced:
    """A price for one tier.

    Attributes:
        cost: What is charged, in credits.
        formula: The text of the formula that gave it, None for a fixed price.
        raw_cost: The value before clamping and rounding; the cost itself for a fixed price.
        variables: The variables the formula was given, None for a fixed price.
    """

    cost: Decimal
    formula: str | None
    raw_cost: Decimal
    variables: Mapping[str, Any] | None


class Option(NamedTuple):
    """The price of one tier, as it travels.

    Attributes:
        tier: The tier, b"" for everyone whose tier has no option of its own.
        cost: Micro-credits, `MAY_NOT_ACT` or `UNPRICED`.
        raw_cost: The formula's value before clamping and rounding, b"" for a fixed price; the
            required tier where the tier may not act; the error's code where there is no price.
        formula: The formula's text, b"" for a fixed price; JSON of the error's facts where there is
            no price.
        error: What the caller gets where there is no price.
    """

    tier: bytes
    cost: bytes
    raw_cost: bytes = b""
    formula: bytes = b""
    error: CreditsError | None = None


@dataclass(frozen=True)
class Quote:
    """The price of an action for every tier.

    Attributes:
        options: One for each tier that differs, the one for everyone else last.
        variables: JSON of the variables a formula was given, b"" where there is no formula.
    """

    options: tuple[Option, ...]
    variables: bytes = b""

    @cached_property
    def packed(self) -> tuple[int, bytes]:
        """The options as a script reads them: how many arguments, and the arguments, packed."""
        arguments = [b"%d" % len(self.options)]
        for option in self.options:
            arguments += option[:4]
        return len(arguments), bulks(arguments)

    def cost_for(self, tier: bytes) -> bytes:
        """The cost of the option that a script picks for a tier."""
        own = (option.cost for option in self.options if option.tier == tier)
        return next(own, self.options[-1].cost)


_Price: TypeAlias = Decimal | Formula


@dataclass(frozen=True, slots=True)
class _Action:
    default: _Price | None
    tiers: Mapping[str, _Price]
    required: str | None
    allowed: frozenset[str]

    @property
    def is_fixed(self) -> bool:
        """Whether no formula is among its prices."""
        return not any(isinstance(price, Formula) for price in (self.default, *self.tiers.values()))


class PriceList:
    """Prices and requirements of a configuration, ready to quote.

    Example:
        >>> prices = PriceList(config)
        >>> prices.price("chat", tier="pro", variables={"tokens": 250}).cost
        Decimal('2.00')
    """

    def __init__(self, config: CreditsConfig) -> None:
        membership = config.membership
        self._closed = membership.unlisted_actions == "refuse"
        self._unlisted = _Action(None, {}, None, frozenset())
        self._actions: dict[str, _Action] = {}
        for action in {**config.costs, **membership.requirements}:
            prices = {tier: _read(price) for tier, price in config.costs.get(action, {}).items()}
            required = membership.requirements.get(action)
            allowed = (
                tier
                for tier, level in membership.tiers.items()
                if required is not None and level >= membership.tiers[required]
            )
            default = prices.pop(DEFAULT_PRICE, None)
            self._actions[action] = _Action(default, prices, required, frozenset(allowed))
        self._fixed: dict[str, Quote] = {}
        for name, known in self._actions.items():
            if known.is_fixed:
                self._fixed[name] = self._quote(name, known, None)

    def quote(self, action: str, variables: Variables | None = None) -> Quote:
        """The configured price of an action for every tier.

        An action without a price, a missing variable and a formula without a value do not raise
        here: an unknown user and a missing membership come first, and only the script knows them.

        Raises:
            InvalidArgumentError: The variables cannot be recorded.
        """
        fixed = self._fixed.get(action)
        if fixed is not None:
            return fixed
        return self._quote(action, self._actions.get(action, self._unlisted), variables)

    def quote_amount(self, action: str, micros: int) -> Quote:
        """An amount the caller names, for every tier that may act."""
        known = self._actions.get(action, self._unlisted)
        if known is self._unlisted and self._closed:
            return self._quote(action, known, None)
        cost = b"%d" % micros
        if known.required is None:
            return Quote((Option(_EVERYONE_ELSE, cost),))
        options = [Option(tier.encode(), cost) for tier in sorted(known.allowed)]
        return Quote((*options, Option(_EVERYONE_ELSE, MAY_NOT_ACT, known.required.encode())))

    def quote_for(
        self,
        action: str,
        amount: Amount | None,
        variables: Variables | None,
        *,
        of_anyone: bool = False,
    ) -> Quote:
        """The price of an action: the amount the caller names, else the configured one.

        Args:
            action: The action.
            amount: The price in credits, None for the configured one.
            variables: Values for the variables of a price formula.
            of_anyone: Whether a named amount holds whatever tier the action requires.

        Raises:
            InvalidArgumentError: Both are given, or one cannot be used.
        """
        if amount is None:
            return self.quote(action, variables)
        if variables:
            raise InvalidArgumentError("variables", "have no effect on an explicit amount")
        micros = to_micros(amount)
        if of_anyone:
            return Quote((Option(_EVERYONE_ELSE, b"%d" % micros),))
        return self.quote_amount(action, micros)

    def required(self, action: str) -> str | None:
        """The tier an action needs, None where it is open to all.

        Raises:
            UndefinedActionError: The configuration does not know the action and refuses such.
        """
        known = self._actions.get(action)
        if known is None and self._closed:
            raise UndefinedActionError(action)
        return known.required if known else None

    def price(self, action: str, tier: str | None, variables: Variables | None = None) -> Priced:
        """The price of an action for one tier, whatever the action requires.

        Raises:
            UndefinedActionError: The action has no price.
            MissingVariableError: The formula needs a variable that is not given.
            FormulaEvaluationError: The formula has no finite value.
        """
        known = self._actions.get(action, self._unlisted)
        if known.default is None:
            raise UndefinedActionError(action)
        price = known.tiers.get(tier, known.default) if tier else known.default
        if isinstance(price, Formula) and not variables and isinstance(known.default, Decimal):
            price = known.default
        if isinstance(price, Decimal):
            return Priced(price, None, price, None)
        given = variables or {}
        raw = price.evaluate(given)
        return Priced(formula.to_price(price, raw, given), price.text, raw, given)

    def _quote(self, name: str, action: _Action, variables: Variables | None) -> Quote:
        recorded = b"" if action.is_fixed else _variables_json(variables or {})
        if action.required is None:
            everyone_else = self._option(name, None, variables)
            tiers: Iterable[str] = action.tiers
        else:
            everyone_else = Option(_EVERYONE_ELSE, MAY_NOT_ACT, action.required.encode())
            tiers = sorted(action.allowed)
        options = (self._option(name, tier, variables) for tier in tiers)
        differing = [option for option in options if option[1:4] != everyone_else[1:4]]
        return Quote((*differing, everyone_else), recorded)

    def _option(self, action: str, tier: str | None, variables: Variables | None) -> Option:
        name = tier.encode() if tier else _EVERYONE_ELSE
        try:
            priced = self.price(action, tier, variables)
        except (UndefinedActionError, MissingVariableError, FormulaEvaluationError) as error:
            return Option(name, UNPRICED, error.code.encode(), _failure_json(error), error)
        cost = b"%d" % to_micros(priced.cost)
        if priced.formula is None:
            return Option(name, cost)
        return Option(name, cost, str(priced.raw_cost).encode(), priced.formula.encode())


def quote_rest(priced: Priced, charged: int) -> Quote:
    """What is left of a price, for every tier, once a part of it was charged, in micro-credits.

    A formula's value before rounding is less by as much.

    Raises:
        InvalidArgumentError: The variables cannot be recorded.
    """
    cost = b"%d" % max(0, to_micros(priced.cost) - charged)
    if priced.formula is None:
        return Quote((Option(_EVERYONE_ELSE, cost),))
    raw_cost = str(EXACT.subtract(priced.raw_cost, to_credits(charged))).encode()
    option = Option(_EVERYONE_ELSE, cost, raw_cost, priced.formula.encode())
    return Quote((option,), _variables_json(priced.variables or {}))


def _read(price: Decimal | str) -> _Price:
    return formula.parse(price) if isinstance(price, str) else price


# --- what the ledger remembers of a price -------------------------------------------------------


def _failure_json(error: CreditsError) -> bytes:
    """What the audit log says of a price that could not be worked out; names as in the reference."""
    facts: dict[str, Any] = {"error": error.message}
    if isinstance(error, MissingVariableError):
        facts |= {
            "errorType": type(error).__name__,
            "errorCode": error.code,
            "formula": error.formula,
            "missingVariable": error.missing_variable,
            "providedVariables": error.provided_variables,
        }
    if isinstance(error, FormulaEvaluationError):
        facts |= {
            "errorType": type(error).__name__,
            "errorCode": error.code,
            "formula": error.formula,
            "cause": error.cause,
        }
    return _json(facts).encode()


def _variables_json(variables: Variables) -> bytes:
    """The variables as a JSON object with exact numbers; what is no number is shown as text."""
    arguments.check_variables(variables)
    members = (f"{_json(name)}:{_shown(value)}" for name, value in variables.items())
    encoded = b"{%b}" % ",".join(members).encode()
    if len(encoded) > _VARIABLES_BYTES_MAX:
        problem = f"have {len(encoded)} bytes as JSON, more than {_VARIABLES_BYTES_MAX}"
        raise InvalidArgumentError("variables", problem)
    return encoded


def _shown(value: object) -> str:
    if type(value) is int and abs(value) < 10**_NUMBER_EXPONENT_MAX:
        return str(value)
    if type(value) is float and isfinite(value):
        return repr(value)
    if isinstance(value, Decimal) and value.is_finite():
        return plain(value) if abs(value.adjusted()) <= _NUMBER_EXPONENT_MAX else f'"{value}"'
    try:
        return _json(ascii(value)[:_SHOWN_MAX])
    except (ValueError, RecursionError) as error:  # more digits than Python writes, or no end
        raise InvalidArgumentError("variables", "have a value that is too large") from error
