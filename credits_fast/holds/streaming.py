"""A hold that is consumed piece by piece: charged in parts, extended in time and amount, ended exactly.

A piece is only counted, until a share of the hold is consumed and not charged: then that much is
charged. Where the hold keeps too little for a piece, or its time is half over, it is extended. What is
charged in the end is what was counted, and a program that dies loses a share at most.

    counted ──▶ a share is consumed: a part is charged
            ──▶ the hold keeps too little, or half of its time is over: it is extended
            ──▶ the available credits do not cover it: the piece is refused, and not counted

Servers are asked one at a time, in work that a cancelled caller waits for: what a server has done is
always known here, or known to be unknown; then it is settled before anything else is charged.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from credits_fast.amounts import to_credits, to_micros
from credits_fast.calls.to_the_end import to_the_end
from credits_fast.errors import InsufficientCreditsError, InvalidArgumentError, OutcomeUnknownError
from credits_fast.holds.consumption import Consumption

if TYPE_CHECKING:
    from decimal import Decimal

    from credits_fast.amounts import Amount
    from credits_fast.holds.holding import Holding
    from credits_fast.prices.pricing import Priced
    from credits_fast.types import AboveHold, CaptureResult, Level, Metadata, Variables

__all__ = ["Stream"]

_RENEWED_AT: Final = 2
"""A hold is given its time anew when one part of so many is over."""


class Stream:
    """The consumption of one hold.

    Args:
        holding: Makes and finishes holds.
        user_id: The user.
        action: The action, whose price the configuration knows.
        hold_id: The hold.
        amount: What was reserved, in credits.
        estimate: The variables of the reservation.
        ttl_ms: For how long the hold was made, None for the configured time.
        made_ms: When that was, by `Holding.now_ms`.
        above: What becomes of a price above what is held; only where history was lost there is one.
        metadata: Kept with every transaction.
        acknowledge: How far every charge has to have come.
    """

    def __init__(
        self,
        holding: Holding,
        user_id: str,
        action: str,
        hold_id: str,
        *,
        amount: Decimal,
        estimate: Variables | None,
        ttl_ms: int | None,
        made_ms: float,
        above: AboveHold | None,
        metadata: Metadata | None,
        acknowledge: Level | None,
    ) -> None:
        self._holding = holding
        self._user_id = user_id
        self._action = action
        self._hold_id = hold_id
        self._ttl_ms = holding.ttl_ms if ttl_ms is None else ttl_ms
        self._renew_ms = made_ms + self._ttl_ms / _RENEWED_AT
        self._above: AboveHold | None = above
        self._metadata = metadata
        self._acknowledge: Level | None = acknowledge
        self._count = Consumption(to_micros(amount), holding.settle_share, estimate)
        self._tier: str | None = None
        self._asking = asyncio.Lock()
        self._unknown: tuple[OutcomeUnknownError, int] | None = None
        self._is_over = False

    @property
    def consumed(self) -> Decimal:
        """What is counted, in credits."""
        return to_credits(self._count.consumed)

    async def consume(self, amount: Amount | None, variables: Variables | None) -> None:
        """Count a piece; raises as `Hold.consume`."""
        if variables is not None and self._tier is None:
            self._tier = await self._holding.tier_of(self._user_id, self._hold_id)
        if not self._asking.locked():
            price = self._price_with(amount, variables)
            if self._count.has_room(price) and self._holding.now_ms() < self._renew_ms:
                self._count.count(price)
                return
        _, was_cancelled = await to_the_end(self._take(amount, variables))
        if was_cancelled:
            raise asyncio.CancelledError

    async def finish(self) -> CaptureResult | None:
        """Charge what is consumed and not charged, and release the rest; None where nothing was."""
        async with self._asking:
            self._is_over = True
            await self._settle_unknown()
            if not self._count.consumed and not self._count.settled:
                return None
            return await self._settle(final=True)

    def _price_with(self, amount: Amount | None, variables: Variables | None) -> Priced:
        """What everything costs, the piece included."""
        if self._is_over:
            raise InvalidArgumentError("hold", "is over")
        if variables is None:
            return self._count.with_amount(0 if amount is None else amount)
        return self._count.with_variables(
            variables, lambda sums: self._holding.price(self._action, self._tier, sums)
        )

    async def _take(self, amount: Amount | None, variables: Variables | None) -> None:
        """Count a piece, with what has to be held before and charged after it."""
        async with self._asking:
            price = self._price_with(amount, variables)
            short = self._count.short_of(price)
            if short:
                await self._grow(short)
            elif self._holding.now_ms() >= self._renew_ms:
                await self._extend(None)
            self._count.count(price)
            if self._count.is_due:
                await self._settle_unknown()
                await self._settle(final=False)

    # --- what servers are asked ----------------------------------------------------------------

    async def _grow(self, short: int) -> None:
        """Have the hold keep so much more at least: as much as it should, else what there is.

        Raises:
            InsufficientCreditsError: The available credits do not cover it.
        """
        lacks, growth = to_credits(short), to_credits(self._count.growth(short))
        try:
            await self._extend(growth)
        except InsufficientCreditsError as refused:
            if refused.available < lacks:
                raise _lacking(refused, lacks) from None
            available = refused.available
        else:
            return
        try:
            await self._extend(available)
        except InsufficientCreditsError as refused:  # somebody else was faster
            raise _lacking(refused, lacks) from None

    async def _extend(self, amount: Decimal | None) -> None:
        asked_ms = self._holding.now_ms()
        await self._holding.extend(
            self._user_id,
            self._hold_id,
            amount=amount,
            ttl_ms=self._ttl_ms,
            idempotency_key=None,
            metadata=self._metadata,
        )
        self._renew_ms = asked_ms + self._ttl_ms / _RENEWED_AT
        self._count.covered += 0 if amount is None else to_micros(amount)

    async def _settle(self, *, final: bool) -> CaptureResult:
        """Charge what is consumed and not charged."""
        consumed = self._count.consumed
        try:
            done = await self._holding.settle(
                self._user_id,
                self._action,
                self._hold_id,
                self._count.rest(),
                metadata=self._metadata,
                final=final,
                above=self._above,
                acknowledge=self._acknowledge,
            )
        except OutcomeUnknownError as error:
            self._unknown = (error, consumed)
            raise
        self._count.settled = consumed
        return done

    async def _settle_unknown(self) -> None:
        """Find out, or decide now, what became of a charge nobody could tell of."""
        if self._unknown is None:
            return
        error, consumed = self._unknown
        if (await self._holding.resolve(error)).took_effect:
            self._count.settled = consumed
        self._unknown = None


def _lacking(refused: InsufficientCreditsError, lacks: Decimal) -> InsufficientCreditsError:
    """The refusal, told of what the piece lacks and not of what was asked for to have some in hand."""
    return InsufficientCreditsError(refused.user_id, lacks, refused.available, refused.reserved)
