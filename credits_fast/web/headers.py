"""A charge, or a reservation, as response headers, so that a client need not ask for its balance. Pure.

They are `X-Credits-…` and not the `RateLimit` fields of the IETF's draft, whose units come from a
registry in which credits are not one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from decimal import Decimal

    from credits_fast.types import ChargeResult, ReserveResult

__all__ = ["PREFIX", "charge_headers", "credits_text", "hold_headers"]

PREFIX: Final = "X-Credits-"
"""What the names of the headers begin with, unless the application says otherwise."""


def charge_headers(charge: ChargeResult, *, prefix: str = PREFIX) -> dict[str, str]:
    """The headers of a response that was charged for; amounts are credits with all six places.

    | header | what it says |
    |---|---|
    | `X-Credits-Charged` | what was taken for this request, now or when it came first |
    | `X-Credits-Remaining` | the balance after it; not of a repeated request, whose balance is of then |
    | `X-Credits-Transaction` | the id of the transaction in the ledger |
    | `X-Credits-Replayed` | `true`, where the request was charged before and not now |

    Args:
        charge: What `CreditsEngine.charge` gave.
        prefix: What the names begin with.
    """
    headers = {
        f"{prefix}Charged": credits_text(charge.cost),
        f"{prefix}Transaction": charge.transaction_id,
    }
    if charge.replayed:
        return headers | {f"{prefix}Replayed": "true"}
    return headers | {f"{prefix}Remaining": credits_text(charge.balance_after)}


def hold_headers(reservation: ReserveResult, *, prefix: str = PREFIX) -> dict[str, str]:
    """The headers of a response whose credits are held, as its cost is not known when it begins.

    | header | what it says |
    |---|---|
    | `X-Credits-Reservation` | the id of the hold |
    | `X-Credits-Reserved` | what is held for this request |
    | `X-Credits-Remaining` | what is left for others meanwhile: the balance less all that is held |

    Args:
        reservation: What `CreditsEngine.reserve` gave, or `Hold.reservation` has.
        prefix: What the names begin with.
    """
    return {
        f"{prefix}Reservation": reservation.hold_id,
        f"{prefix}Reserved": credits_text(reservation.amount),
        f"{prefix}Remaining": credits_text(reservation.available),
    }


def credits_text(amount: Decimal) -> str:
    """An amount with all its digits, as everywhere outside of Python.

    Example:
        >>> from decimal import Decimal
        >>> credits_text(Decimal("7.950000"))
        '7.950000'
    """
    return f"{amount:f}"
