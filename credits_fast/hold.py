"""`Hold`: credits that are held while something is done, and charged or given back at its end.

Neither its beginning nor its end can be interrupted half-way: a caller that is cancelled meanwhile gets
its `CancelledError` as soon as Redis has answered, and by then the credits are not held in vain. Should
the program die, or Redis be away, the hold expires.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Self

from credits_fast import arguments
from credits_fast.amounts import to_micros
from credits_fast.errors import CreditsError, InvalidArgumentError
from credits_fast.to_the_end import to_the_end

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal
    from types import TracebackType

    from credits_fast.amounts import Amount
    from credits_fast.holding import Holding, Reserved
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
        captured: The charge, from the end of the block on; None before, and where it was given back.
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
        """When the hold ends by itself."""
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
        """Whether `used` has said what is to be charged."""
        return self._used != (None, None)

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
        self._used = (amount, variables)

    async def __aenter__(self) -> Self:
        if self._reserved is not None:
            raise InvalidArgumentError("hold", "is entered once")
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
