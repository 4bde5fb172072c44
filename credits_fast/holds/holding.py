"""Reserve, extend, capture, release: what the engine asks of the scripts about holds.

A hold that is not open is looked for in the ledger, so that its caller is told what became of it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from credits_fast import arguments
from credits_fast.amounts import to_micros
from credits_fast.calls.finished_holds import finished_hold
from credits_fast.calls.operations import asked_for, canonical
from credits_fast.calls.pending import Pending, under_way
from credits_fast.calls.retry import repeat
from credits_fast.errors import CreditsError, HoldExpiredError, InvalidArgumentError
from credits_fast.protocol import hold_wire
from credits_fast.protocol.hold_wire import OpenHold
from credits_fast.protocol.refusals import error_for

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import datetime

    from credits_fast.amounts import Amount
    from credits_fast.calls.carrying import Carrier
    from credits_fast.calls.courier import Courier
    from credits_fast.calls.operations import Operations
    from credits_fast.config import CreditsConfig
    from credits_fast.prices.pricing import Priced, PriceList, Quote
    from credits_fast.protocol.wire import Operation
    from credits_fast.servers.routing import Router
    from credits_fast.types import (
        AboveHold,
        CaptureResult,
        ExtendResult,
        Level,
        Metadata,
        ReleaseResult,
        ReserveResult,
        Resolution,
        Variables,
    )

__all__ = ["Holding", "Reserved"]

_HOLD_MS_MAX: Final = 10 * 366 * 86_400_000
_POLICIES: Final = ("debt", "cap", "refuse")


class Reserved(NamedTuple):
    """A reservation, and whether this very call has made it."""

    result: ReserveResult
    is_ours: bool


class Holding:
    """Makes and finishes holds.

    Args:
        config: The configuration.
        operations: Makes checked operations.
        prices: What actions cost.
        courier: Looks at accounts.
        carrier: Carries operations out.
        router: Which lane leads to a partition.
        clock: The time, None for this machine's own; for tests.
    """

    def __init__(
        self,
        config: CreditsConfig,
        *,
        operations: Operations,
        prices: PriceList,
        courier: Courier,
        carrier: Carrier,
        router: Router,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self._config = config
        self._operations = operations
        self._prices = prices
        self._courier = courier
        self._carrier = carrier
        self._router = router
        self._clock = clock
        self.ttl_ms = config.holds.ttl_ms
        self._open_max = config.holds.open_max
        self._above: AboveHold = config.holds.above
        self.settle_share = config.holds.settle_share

    def now_ms(self) -> float:
        """Milliseconds since whenever: for spans of time, never to be told anybody else."""
        return (
            time.monotonic() * 1_000 if self._clock is None else self._clock().timestamp() * 1_000
        )

    async def reserve(
        self,
        user_id: str,
        action: str,
        *,
        amount: Amount | None,
        variables: Variables | None,
        ttl_ms: int | None,
        idempotency_key: str | None,
        metadata: Metadata | None,
        fingerprint: str | None = None,
        acknowledge: Level | None = None,
    ) -> Reserved:
        """A new hold, or the one that was made under the same key; raises as `CreditsEngine.reserve`."""
        pending = self.reservation(
            user_id,
            action,
            amount=amount,
            variables=variables,
            ttl_ms=ttl_ms,
            idempotency_key=idempotency_key,
            metadata=metadata,
            fingerprint=fingerprint,
        )
        result = await self._carrier.carry_out(pending, acknowledge)
        return Reserved(result, result.hold_id == pending.operation.operation_id)

    def reservation(
        self,
        user_id: str,
        action: str,
        *,
        amount: Amount | None,
        variables: Variables | None,
        ttl_ms: int | None,
        idempotency_key: str | None,
        metadata: Metadata | None,
        fingerprint: str | None,
    ) -> Pending[ReserveResult]:
        """A reservation that is still to be carried out."""
        if variables is not None:
            arguments.check_variables(variables)
        hold_ms = self.ttl_ms if ttl_ms is None else _checked_ttl(ttl_ms)
        asked = asked_for(amount, variables, fingerprint)
        operation = self._operations.new(
            "reserve", user_id, action, idempotency_key, metadata, *asked
        )
        quote = self._prices.quote_for(action, amount, variables)
        call = hold_wire.reserve_call(operation, quote, hold_ms=hold_ms, open_max=self._open_max)
        read, facts = hold_wire.reserved, (quote,)
        return under_way(("reserve", operation, call, read, facts, "", quote.variables))

    def capture(
        self,
        user_id: str,
        action: str,
        hold_id: str,
        *,
        amount: Amount | None,
        variables: Variables | None,
        idempotency_key: str | None,
        metadata: Metadata | None,
        final: bool = True,
        above: AboveHold | None = None,
        is_once: bool = False,
        acknowledge: Level | None = None,
    ) -> Coroutine[Any, Any, CaptureResult]:
        """A charge of what a hold keeps, to be awaited; raises as `CreditsEngine.capture`.

        Args:
            user_id: The user.
            action: The action, whose price the configuration knows.
            hold_id: The hold.
            amount: The price in credits.
            variables: Values for the variables of a price formula.
            idempotency_key: Repeating the call with it gives the first result.
            metadata: Kept with the transaction and the audit entry.
            final: Whether the hold is finished by it.
            above: What becomes of a price above what is held.
            is_once: Whether a repeated key gives the first result whatever the amount is now.
            acknowledge: How far it has to have come; None for the configured level.
        """
        hold = arguments.identifier("hold_id", hold_id)
        policy = self._above if above is None else above
        if policy not in _POLICIES:
            raise InvalidArgumentError("above", f"must be one of {', '.join(_POLICIES)}")
        if variables is not None:
            arguments.check_variables(variables)
        asked: tuple[str, ...] = ()
        if idempotency_key is not None and not is_once:
            named = "" if amount is None else str(to_micros(amount))
            asked = (named, canonical(variables), str(final), policy)
        operation = self._operations.new(
            "capture", user_id, action, idempotency_key, metadata, hold_id, *asked
        )
        quote = hold_wire.WHOLE
        if amount is not None or variables is not None:
            quote = self._prices.quote_for(action, amount, variables, of_anyone=True)
        pending = _capture(operation, hold, quote, final=final, above=policy)
        return self._carrier.carry_out(pending, acknowledge)

    async def settle(
        self,
        user_id: str,
        action: str,
        hold_id: str,
        quote: Quote,
        *,
        metadata: Metadata | None,
        final: bool,
        above: AboveHold | None,
        acknowledge: Level | None,
    ) -> CaptureResult:
        """A charge of what a hold keeps at a price that is known; raises as `CreditsEngine.capture`."""
        policy = self._above if above is None else above
        operation = self._operations.new("capture", user_id, action, None, metadata)
        pending = _capture(operation, hold_id.encode(), quote, final=final, above=policy)
        return await self._carrier.carry_out(pending, acknowledge)

    async def resolve(self, error: CreditsError) -> Resolution:
        """What became of an operation whose outcome was unknown; see `CreditsEngine.resolve`."""
        return await self._carrier.resolve(error, repeat_it=True)

    def price(self, action: str, tier: str | None, variables: Variables) -> Priced:
        """What an action costs a tier; raises as `CreditsEngine.charge` where it has no price."""
        return self._prices.price(action, tier, variables)

    async def extend(
        self,
        user_id: str,
        hold_id: str,
        *,
        amount: Amount | None,
        ttl_ms: int | None,
        idempotency_key: str | None,
        metadata: Metadata | None,
    ) -> ExtendResult:
        """More for a hold; raises as `CreditsEngine.extend`."""
        hold = arguments.identifier("hold_id", hold_id)
        if amount is None and ttl_ms is None:
            raise InvalidArgumentError("amount", "or ttl_ms must be given, or both")
        micros = 0 if amount is None else to_micros(amount)
        hold_ms = None if ttl_ms is None else _checked_ttl(ttl_ms)
        operation = self._operations.new(
            "extend",
            user_id,
            "extend",
            idempotency_key,
            metadata,
            hold_id,
            str(micros),
            "" if hold_ms is None else str(hold_ms),
        )
        call = hold_wire.extend_call(operation, hold, micros=micros, hold_ms=hold_ms)
        pending = Pending(
            "extend", operation, call, hold_wire.extended, (hold,), subject=str(micros)
        )
        return await self._carrier.carry_out(pending, None)

    async def release(
        self,
        user_id: str,
        hold_id: str,
        idempotency_key: str | None,
        metadata: Metadata | None,
    ) -> ReleaseResult:
        """A hold that was given up; raises as `CreditsEngine.release`."""
        hold = arguments.identifier("hold_id", hold_id)
        operation = self._operations.new(
            "release", user_id, "release", idempotency_key, metadata, hold_id
        )
        call = hold_wire.release_call(operation, hold)
        pending = Pending("release", operation, call, hold_wire.released, (hold,))
        return await self._carrier.carry_out(pending, None)

    async def check_open(self, user_id: str, hold_id: str) -> None:
        """Nothing, where the hold is open and its time is not over.

        Raises:
            HoldNotFoundError: The user has no such hold.
            HoldFinishedError: It was captured or released, or has expired.
            UnavailableError: A server cannot be reached.
        """
        hold, now_ms = await self._open_hold(user_id, hold_id)
        if now_ms > hold.expires_ms:
            raise HoldExpiredError(user_id, hold_id)

    async def tier_of(self, user_id: str, hold_id: str) -> str:
        """The tier whose price an open hold was made for, "" for none; raises as `check_open`."""
        hold, _ = await self._open_hold(user_id, hold_id)
        return hold.tier

    async def _open_hold(self, user_id: str, hold_id: str) -> tuple[OpenHold, int]:
        """The hold as it is now, and what now is, in milliseconds."""
        operation = self._operations.new("reserve", user_id, "check", None, None)
        partition, hold = operation.partition, hold_id.encode()
        field = hold_wire.hold_field(operation.user, hold)
        _, now_ms = await self._courier.account(partition, operation.user)
        found = await repeat(
            lambda: self._router.execute(partition, b"HGET", partition.holds, field),
            self._config.retry,
        )
        if found is None:
            state = await self._carrier.hold_state(operation, hold_id)
            raise error_for(finished_hold(operation, hold_id, state))
        return OpenHold.parse(hold, found), now_ms


def _capture(
    operation: Operation, hold: bytes, quote: Quote, *, final: bool, above: AboveHold
) -> Pending[CaptureResult]:
    call = hold_wire.capture_call(operation, hold, quote, final=final, above=above)
    read, facts = hold_wire.captured, (hold, quote)
    return under_way(("capture", operation, call, read, facts, "", quote.variables))


def _checked_ttl(ttl_ms: int) -> int:
    if type(ttl_ms) is not int or not 1 <= ttl_ms <= _HOLD_MS_MAX:
        raise InvalidArgumentError("ttl_ms", f"must be whole, 1 to {_HOLD_MS_MAX}")
    return ttl_ms
