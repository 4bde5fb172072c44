"""`Hold`: credits that are held while something is done, and charged or given back at its end.

Neither its beginning nor its end can be interrupted half-way: a caller that is cancelled meanwhile gets
its `CancelledError` as soon as Redis has answered, and by then the credits are not held in vain. Should
the program die, or Redis be away, the hold expires.
"""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Self

from credits_fast import arguments
from credits_fast.amounts import to_micros
from credits_fast.calls.to_the_end import to_the_end
from credits_fast.errors import CreditsError, HoldSharedError, InvalidArgumentError
from credits_fast.holds.streaming import Stream

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    from credits_fast.amounts import Amount
    from credits_fast.holds.holding import Holding, Reserved
    from credits_fast.types import (
        AboveHold,
        CaptureResult,
        Level,
        Metadata,
        ReserveResult,
        Variables,
    )

__all__ = ["Hold"]

_log: Final = logging.getLogger(__name__)


class Hold:
    """What `CreditsEngine.hold` gives; entered once.

    Attributes:
        captured: The charge, from the end of the block on, the last one where it was consumed in parts;
            None before, and where it was given back.
    """

    def __init__(
        self,
        holding: Holding,
        user_id: str,
        action: str,
        *,
        amount: Amount | None,
        estimate: Variables | None,
        ttl_ms: int | None,
        above: AboveHold | None,
        idempotency_key: str | None,
        fingerprint: str | None,
        metadata: Metadata | None,
        acknowledge: Level | None,
    ) -> None:
        self._holding = holding
        self._user_id = user_id
        self._action = action
        self._amount = amount
        self._estimate = estimate
        self._ttl_ms = ttl_ms
        self._key = idempotency_key
        self._fingerprint = fingerprint
        self._above: AboveHold | None = above
        self._metadata = metadata
        self._acknowledge: Level | None = acknowledge
        self._reserved: Reserved | None = None
        self._used: tuple[Amount | None, Variables | None] = (None, None)
        self._made_ms = 0.0
        self._stream: Stream | None = None
        self.captured: CaptureResult | None = None

    @property
    def id(self) -> str:
        """The hold's id."""
        return self._made.result.hold_id

    @property
    def amount(self) -> Decimal:
        """What was reserved, in credits."""
        return self._made.result.amount

    @property
    def expires_at(self) -> datetime:
        """When the hold ends by itself, as it was made; consuming extends it."""
        return self._made.result.expires_at

    @property
    def reservation(self) -> ReserveResult:
        """The reservation; of a shared hold the first one's, whose balance is of then."""
        return self._made.result

    @property
    def replayed(self) -> bool:
        """Whether another call made the hold, under the same key."""
        return not self._made.is_ours

    @property
    def is_measured(self) -> bool:
        """Whether `used` or `consume` has said what is to be charged."""
        return self._stream is not None or self._used != (None, None)

    def used(self, *, amount: Amount | None = None, variables: Variables | None = None) -> None:
        """Say what is to be charged at the end of the block, instead of what was reserved.

        The last word counts; amount and variables of different calls are not added.

        Args:
            amount: The price in credits, 0 or more.
            variables: Values for the variables of the action's price formula.

        Raises:
            InvalidArgumentError: Not exactly one is given, or it cannot be used.
        """
        if (amount is None) == (variables is None):
            raise InvalidArgumentError("amount", "or variables must be given, and not both")
        if amount is not None:
            to_micros(amount)
        if variables is not None:
            arguments.check_variables(variables)
        if self._stream is not None:
            raise InvalidArgumentError("hold", "is consumed, and charged for that")
        self._used = (amount, variables)

    @property
    def consumed(self) -> Decimal:
        """What was consumed so far, in credits; 0 where nothing was."""
        return Decimal(0) if self._stream is None else self._stream.consumed

    async def consume(
        self, *, amount: Amount | None = None, variables: Variables | None = None
    ) -> None:
        """Count a piece of a stream, before it is handed on; the block is charged what is counted.

        Most pieces are only counted, here. Where `holds.settle_share` of the hold is consumed and not
        charged yet, that much is charged; where the hold keeps too little, or half of its time is over,
        it is extended. However the block ends, what is counted is charged, and the rest released.

        A piece whose call was refused is not counted. One whose call was cancelled, or failed because a
        server was away, may be: `consumed` says what is.

        Args:
            amount: The price of the piece in credits, 0 or more.
            variables: What it adds to the variables of the action's price formula: numbers from 0. The
                price is the one of their sums; those of the estimate begin at 0.

        Raises:
            InsufficientCreditsError: The available credits do not cover the piece: stop here.
            HoldExpiredError: The pause since the piece before was longer than the hold lasts.
            HoldFinishedError: Somebody else has finished the hold.
            HoldSharedError: Another block with the same key has made the hold.
            MissingVariableError: The price formula needs a variable that was neither told nor estimated.
            FormulaEvaluationError: The price formula has no finite value.
            UndefinedActionError: The action has no price.
            InvalidArgumentError: Not exactly one is given, it cannot be used, it is of another kind than
                before, `used` was called, or the block is over.
            OutcomeUnknownError: The reply to a charge was lost; the next one, or the end, settles it.

        Example:
            >>> async with credits.hold("ada", "chat", estimate={"input": 900, "output": 0}) as hold:
            ...     await hold.consume(variables={"input": 900})
            ...     async for piece in model(prompt):
            ...         await hold.consume(variables={"output": piece.tokens})
            ...         yield piece.text
        """
        if (amount is None) == (variables is None):
            raise InvalidArgumentError("amount", "or variables must be given, and not both")
        if self._used != (None, None):
            raise InvalidArgumentError("hold", "was told what is used, and is charged for that")
        if self._stream is None:
            self._stream = self._new_stream()
        await self._stream.consume(amount, variables)

    async def __aenter__(self) -> Self:
        if self._reserved is not None:
            raise InvalidArgumentError("hold", "is entered once")
        self._made_ms = self._holding.now_ms()
        work = self._holding.reserve(
            self._user_id,
            self._action,
            amount=self._amount,
            variables=self._estimate,
            ttl_ms=self._ttl_ms,
            idempotency_key=self._key,
            fingerprint=self._fingerprint,
            metadata=self._metadata,
            acknowledge=self._acknowledge,
        )
        self._reserved, was_cancelled = await to_the_end(work)
        if was_cancelled:
            await to_the_end(self._give_up())
            raise asyncio.CancelledError
        if self.replayed:
            await self._holding.check_open(self._user_id, self.id)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            work = self._finish(self._stream, error)
        else:
            work = self._capture() if error is None else self._give_up()
        _, was_cancelled = await to_the_end(work)
        if was_cancelled:
            raise asyncio.CancelledError

    @property
    def _made(self) -> Reserved:
        if self._reserved is None:
            raise InvalidArgumentError("hold", "is not entered yet")
        return self._reserved

    async def _capture(self) -> None:
        amount, variables = self._used
        self.captured = await self._holding.capture(
            self._user_id,
            self._action,
            self.id,
            amount=amount,
            variables=variables,
            idempotency_key=None if self._key is None else f"capture:{self.id}",
            metadata=self._metadata,
            above=self._above,
            is_once=True,
            acknowledge=self._acknowledge,
        )

    def _new_stream(self) -> Stream:
        made = self._made
        if self.replayed:
            raise HoldSharedError(self._user_id, self.id)
        return Stream(
            self._holding,
            self._user_id,
            self._action,
            self.id,
            amount=made.result.amount,
            estimate=self._estimate,
            ttl_ms=self._ttl_ms,
            made_ms=self._made_ms,
            above=self._above,
            metadata=self._metadata,
            acknowledge=self._acknowledge,
        )

    async def _finish(self, stream: Stream, led_here: BaseException | None) -> None:
        """Charge what was consumed; what led here is more important than a charge that fails."""
        try:
            self.captured = await stream.finish()
        except CreditsError as error:
            if led_here is None:
                raise
            _log.warning(
                "what is consumed of hold %s of user %r was not charged to its end: %s",
                *(self.id, self._user_id, error),
            )
            return
        if self.captured is None:
            await self._give_up()

    async def _give_up(self) -> None:
        """Release the hold; another call's hold is left to that call.

        What led here is more important than a release that fails: then the hold expires.
        """
        if self.replayed:
            return
        try:
            await self._holding.release(self._user_id, self.id, None, None)
        except CreditsError as error:
            _log.warning("hold %s of user %r was not released: %s", self.id, self._user_id, error)
