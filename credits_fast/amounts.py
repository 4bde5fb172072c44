"""Credits outside, whole micro-credits inside: the one place where amounts change their form.

A credit is 1,000,000 micro-credits. Inside Redis, on the wire and in the journal an amount is an
integer of micro-credits; callers and SQL see exact decimals with six places. Floats are refused,
because 0.1 as a float is another number than the one that was meant.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final, TypeAlias

from credits_fast.errors import InvalidAmountError
from credits_fast.exact import EXACT, plain

__all__ = [
    "MICROS_MAX",
    "MICROS_PER_CREDIT",
    "PLACES",
    "Amount",
    "json_number",
    "to_credits",
    "to_micros",
]

Amount: TypeAlias = int | Decimal | str
"""What callers may give: an int, a Decimal, or a decimal string such as "13.5"."""

MICROS_PER_CREDIT: Final = 1_000_000
PLACES: Final = 6

MICROS_MAX: Final = 9_000_000_000_000_000
"""The largest balance or amount, 9 thousand million credits: Lua's numbers are doubles, exact up to
2^53 = 9,007,199,254,740,992, so one comparison beyond a full balance is still exact."""

_CREDITS_MAX: Final = MICROS_MAX // MICROS_PER_CREDIT
_DIGITS_MAX: Final = 40
_DECIMAL_TEXT: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)", re.ASCII)
_STEP: Final = Decimal(1).scaleb(-PLACES)
_scaleb: Final = EXACT.scaleb


def to_micros(amount: Amount, *, argument: str = "amount", minimum: int = 0) -> int:
    """The amount as whole micro-credits.

    Args:
        amount: Credits as an int, a Decimal or a decimal string; at most six decimal places.
        argument: The parameter's name, for the error.
        minimum: The smallest allowed number of micro-credits; 1 where a positive amount is due.

    Raises:
        InvalidAmountError: A float, a bool, NaN, infinity, more than six places, below the minimum
            or beyond 9,000,000,000 credits.

    Example:
        >>> to_micros("13.5")
        13500000
    """
    if type(amount) is int:
        credits_ = Decimal(amount) if -_CREDITS_MAX <= amount <= _CREDITS_MAX else None
    elif isinstance(amount, Decimal):
        credits_ = amount
    elif type(amount) is str:
        credits_ = _parse(amount, argument)
    else:
        raise InvalidAmountError(
            argument,
            f"must be an int, a Decimal or a decimal string, not {type(amount).__name__}",
        )
    return _checked(credits_, argument, minimum)


def to_credits(micros: int) -> Decimal:
    """The number of credits, exact, with six decimal places.

    Example:
        >>> to_credits(13_500_000)
        Decimal('13.500000')
    """
    return _scaleb(micros, -PLACES)


def json_number(micros: int) -> str:
    """The credits as a JSON number, exact and short: what metadata in the ledger shows.

    Example:
        >>> json_number(-13_500_000)
        '-13.5'
    """
    whole, fraction = divmod(abs(micros), MICROS_PER_CREDIT)
    if not fraction:
        return str(-whole if micros < 0 else whole)
    sign = "-" if micros < 0 else ""
    return f"{sign}{whole}.{fraction:06d}".rstrip("0")


def _parse(text: str, argument: str) -> Decimal:
    if len(text) > _DIGITS_MAX or not _DECIMAL_TEXT.fullmatch(text):
        raise InvalidAmountError(argument, f"is not a decimal number: {text[:_DIGITS_MAX]!r}")
    return Decimal(text)


def _checked(credits_: Decimal | None, argument: str, minimum: int) -> int:
    """Guards in an order that never converts a number of unbounded size."""
    if credits_ is not None and not credits_.is_finite():
        raise InvalidAmountError(argument, f"must be finite, not {credits_}")
    if credits_ is None or (credits_ and credits_.adjusted() > PLACES + len(str(_CREDITS_MAX))):
        raise InvalidAmountError(argument, f"is beyond {_CREDITS_MAX:,} credits")
    rounded = credits_.quantize(_STEP, context=EXACT)
    if rounded != credits_:
        raise InvalidAmountError(argument, f"has more than {PLACES} decimal places")
    micros = int(rounded.scaleb(PLACES, EXACT))
    if abs(micros) > MICROS_MAX:
        raise InvalidAmountError(argument, f"is beyond {_CREDITS_MAX:,} credits")
    if micros < minimum:
        wanted = "must be positive" if minimum > 0 else "must not be negative"
        raise InvalidAmountError(argument, f"{wanted}, not {plain(rounded)}")
    return micros
