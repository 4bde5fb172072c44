"""Holds as they travel: to script arguments, and from replies to results or errors. Pure.

An open hold stands in Redis under its user and its id, as a text that `lua/shared/hold.lua` draws; the
ledger's row of it becomes that text again when a cold account is loaded.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from credits_fast.amounts import to_credits
from credits_fast.named_tuples import new
from credits_fast.prices.pricing import Option, Quote
from credits_fast.protocol.wire import OK, from_ms, outcome, price
from credits_fast.resp import bulks
from credits_fast.types import CaptureResult, ExtendResult, ReleaseResult, ReserveResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    from credits_fast.protocol.wire import Call, Operation
    from credits_fast.types import AboveHold

__all__ = [
    "IN_ANY_CASE",
    "WHOLE",
    "OpenHold",
    "capture_call",
    "captured",
    "captured_before",
    "extend_call",
    "extended",
    "hold_field",
    "packed_holds",
    "price_of",
    "release_call",
    "released",
    "reserve_call",
    "reserved",
]

IN_ANY_CASE: Final = 0
"""For a hold that is made whatever the user has, because its charge stands already."""
_TERMS_KEPT: Final = 256

_WHATEVER_IS_HELD: Final = b"*"
WHOLE: Final = Quote((Option(b"", _WHATEVER_IS_HELD),))
"""The price that is whatever the hold still keeps."""


class OpenHold(NamedTuple):
    """An open hold; amounts in micro-credits.

    Attributes:
        hold_id: Its id.
        amount: What was reserved in all.
        reserved: What is still held.
        captured: What was charged of it.
        expires_ms: When it ends.
        audited: Whether its expiry is audited.
        tier: The tier whose price was reserved, "" for none.
    """

    hold_id: str
    amount: int
    reserved: int
    captured: int
    expires_ms: int
    audited: bool
    tier: str

    @classmethod
    def parse(cls, hold_id: bytes, text: bytes) -> OpenHold:
        """The text that stands in Redis, read."""
        amount, kept, captured, expires, audited, tier = text.decode().split(" ", 5)
        return cls(
            hold_id.decode(),
            int(amount),
            int(kept),
            int(captured),
            int(expires),
            audited != "0",
            tier,
        )

    def packed(self) -> bytes:
        """The text that stands in Redis."""
        numbers = (self.amount, self.reserved, self.captured, self.expires_ms, int(self.audited))
        return f"{' '.join(map(str, numbers))} {self.tier}".encode()


def hold_field(user: bytes, hold_id: bytes) -> bytes:
    """Under what a hold stands in the hash of its partition."""
    return user + b"\0" + hold_id


def packed_holds(holds: Iterable[OpenHold]) -> bytes:
    """Open holds as `load` takes them: ids and texts in turn, separated by NUL."""
    return b"\0".join(part for one in holds for part in (one.hold_id.encode(), one.packed()))


# --- calls ---------------------------------------------------------------------------------------


def reserve_call(operation: Operation, quote: Quote, *, hold_ms: int, open_max: int) -> Call:
    """A reservation: the price for every tier, and the script picks.

    Args:
        operation: The operation.
        quote: The price.
        hold_ms: Milliseconds until the hold expires.
        open_max: How many holds the user may have, `IN_ANY_CASE` to make it whatever the user has.
    """
    return operation.call(
        "reserve",
        _reserve_terms(hold_ms, open_max, quote.packed),
        extra=quote.variables,
    )


def capture_call(
    operation: Operation, hold_id: bytes, quote: Quote, *, final: bool, above: AboveHold
) -> Call:
    """A capture: the price for every tier, or `WHOLE`.

    The one that finishes the hold is not remembered, unless under a key: a second finds no hold.
    """
    return operation.call(
        "capture",
        _capture_terms("1" if final else "0", above, quote.packed),
        extra=quote.variables,
        argument=hold_field(operation.user, hold_id),
        is_remembered=not final or bool(operation.key),
    )


def extend_call(operation: Operation, hold_id: bytes, *, micros: int, hold_ms: int | None) -> Call:
    """So many micro-credits more for a hold, and so much time from now; None for no more of it."""
    own = bulks((b"%d" % micros, b"" if hold_ms is None else b"%d" % hold_ms))
    return operation.call("extend", (2, own), argument=hold_field(operation.user, hold_id))


def release_call(operation: Operation, hold_id: bytes) -> Call:
    """The release of what a hold keeps."""
    return operation.call("release", (0, b""), argument=hold_field(operation.user, hold_id))


@lru_cache(maxsize=_TERMS_KEPT)
def _reserve_terms(hold_ms: int, open_max: int, price: tuple[int, bytes]) -> tuple[int, bytes]:
    """The own terms of reservations that have all of it in common."""
    size, packed = price
    return 2 + size, bulks((b"%d" % hold_ms, b"%d" % open_max)) + packed


@lru_cache(maxsize=_TERMS_KEPT)
def _capture_terms(final: str, above: AboveHold, price: tuple[int, bytes]) -> tuple[int, bytes]:
    """The own terms of captures that have all of it in common."""
    size, packed = price
    return 2 + size, bulks((final.encode(), above.encode())) + packed


# --- replies -------------------------------------------------------------------------------------


def reserved(reply: bytes, operation: Operation, quote: Quote) -> ReserveResult:
    """The result of a reservation.

    Raises:
        CreditsError: The refusal the script decided.
    """
    hold_id, replayed = operation.operation_id, False
    if reply.startswith(OK):  # nearly every one
        _, amount, expires, balance, total = reply.split(b"\0")
    else:
        hold_id, replayed, (amount, expires, balance, total) = outcome(reply, operation, quote)
    return new(
        ReserveResult,
        (
            hold_id,
            price(int(amount)),
            from_ms(int(expires)),
            to_credits(int(balance)),
            price(int(total)),
            replayed,
            "memory",
        ),
    )


def captured(reply: bytes, operation: Operation, hold_id: bytes, quote: Quote) -> CaptureResult:
    """The result of a capture.

    Raises:
        CreditsError: The refusal the script decided.
    """
    transaction_id, replayed = operation.operation_id, False
    if reply.startswith(OK):  # nearly every one
        _, cost, after, asked, left, final = reply.split(b"\0")
    else:
        transaction_id, replayed, facts = outcome(reply, operation, quote)
        cost, after, asked, left, final = facts
    taken, now = int(cost), int(after)
    paid = price(taken)
    return new(
        CaptureResult,
        (
            transaction_id,
            hold_id.decode(),
            paid,
            paid if asked == cost else price(int(asked)),
            to_credits(now + taken),
            to_credits(now),
            price(int(left)),
            final == b"1",
            replayed,
            "memory",
        ),
    )


def captured_before(operation: Operation, cost: int, balance_after: int, price: int) -> bytes:
    """The reply to a capture that has finished its hold before; amounts in micro-credits."""
    facts = (b"%d" % number for number in (cost, balance_after, price))
    return b"\0".join((b"replayed", operation.operation_id.encode(), *facts, b"0", b"1"))


def price_of(quote: Quote, tier: bytes, cost: int) -> int:
    """The price of a capture that cost so many micro-credits: the same, unless it was capped."""
    price = quote.cost_for(tier)
    return cost if price == _WHATEVER_IS_HELD else int(price)


def extended(reply: bytes, operation: Operation, hold_id: bytes) -> ExtendResult:
    """The result of an extension.

    Raises:
        CreditsError: The refusal the script decided.
    """
    _, replayed, (amount, kept, expires, balance, total) = outcome(reply, operation)
    return ExtendResult(
        hold_id.decode(),
        to_credits(int(amount)),
        to_credits(int(kept)),
        from_ms(int(expires)),
        to_credits(int(balance)),
        to_credits(int(total)),
        replayed,
    )


def released(reply: bytes, operation: Operation, hold_id: bytes) -> ReleaseResult:
    """The result of a release.

    Raises:
        CreditsError: The refusal the script decided.
    """
    _, replayed, (amount, balance, total) = outcome(reply, operation)
    return ReleaseResult(
        hold_id.decode(),
        to_credits(int(amount)),
        to_credits(int(balance)),
        to_credits(int(total)),
        replayed,
    )
