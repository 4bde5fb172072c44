"""Exact decimals that do not depend on the application's decimal context.

`decimal.getcontext()` belongs to the application and may round to any precision; every Decimal
operation of the library names a context of its own instead.
"""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Final

__all__ = ["EXACT", "plain"]

EXACT: Final = Context(prec=60)
"""Wide enough that no amount, price or intermediate sum is ever rounded by it."""


def plain(number: Decimal) -> str:
    """The number as people write it: no exponent, no trailing zeros.

    Example:
        >>> plain(Decimal("13.500000"))
        '13.5'
    """
    return f"{number.normalize(EXACT):f}"
