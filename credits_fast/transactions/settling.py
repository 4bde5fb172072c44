"""Settling intents: what has been committed is done, what was held for a rollback is given back.

Whoever does it, and however often, it is done once.

A charge is the capture of its hold. Where Redis has lost the hold and the ledger never knew it, another
one, empty, stands in for it, whatever the user has by then, and is captured below zero where it must
be: the application's transaction has committed, so its charge stands. A grant or refund is an operation
whose id is the intent's.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

from credits_fast.amounts import to_credits
from credits_fast.calls.outcomes import effect_of
from credits_fast.calls.pending import Pending
from credits_fast.calls.retry import repeat
from credits_fast.errors import (
    CreditsError,
    HoldFinishedError,
    HoldNotFoundError,
    RefusedError,
)
from credits_fast.prices.pricing import Option, Quote
from credits_fast.protocol import hold_wire, wire
from credits_fast.transactions.intent_ids import stand_in

if TYPE_CHECKING:
    from credits_fast.calls.carrying import Carrier
    from credits_fast.calls.operations import Operations
    from credits_fast.config import CreditsConfig
    from credits_fast.ledger.records import Records
    from credits_fast.protocol.wire import Operation
    from credits_fast.servers.routing import Router
    from credits_fast.transactions.intents import Intent, Intents

__all__ = ["HOLD_MS", "Settling"]

_log: Final = logging.getLogger(__name__)
_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

HOLD_MS: Final = 5_000 * 366 * 86_400_000
"""A hold for an intent ends in five thousand years: its intent decides, and never the time."""


class Settling:
    """Settles intents.

    Attributes:
        stood_in: How many charges were made without their hold, which Redis had lost.

    Args:
        config: The configuration.
        intents: The intents of the ledger.
        operations: Makes checked operations.
        carrier: Carries operations out.
        records: The ledger's side.
        router: Which lane leads to a partition.
    """

    def __init__(
        self,
        config: CreditsConfig,
        *,
        intents: Intents,
        operations: Operations,
        carrier: Carrier,
        records: Records,
        router: Router,
    ) -> None:
        self.stood_in = 0
        self._config = config
        self._intents = intents
        self._operations = operations
        self._carrier = carrier
        self._records = records
        self._router = router

    async def resolve(self, intent: Intent) -> bool:
        """Whether the intent is decided, and what it says was done; the worker records it then.

        Raises:
            CreditsError: It cannot be done now, or not at all where it is a `RefusedError`.
        """
        if intent.kind != "charge":
            # Nothing is held for it, so nothing has to be given back while it has not committed.
            state = await self._intents.state(intent.id)
        else:
            state = await self._intents.decide(intent)
        if state is None:
            return False
        if state == "aborted":
            await self._release(intent)
        elif intent.kind == "charge":
            await self._charge(intent)
        else:
            await self._add(intent)
        return True

    async def sweep(self, intent: Intent) -> None:
        """Resolve an intent that nobody has; what cannot be done is noted with the intent and left.

        Raises:
            DatabaseUnavailableError: The database cannot be reached.
        """
        if await self._intents.is_recorded(intent.id):
            await self._intents.settle(intent.id)
            return
        try:
            await self.resolve(intent)
        except RefusedError as error:
            _log.error("intent %s of user %r is refused: %s", intent.id, intent.user_id, error)
            await self._intents.settle(intent.id, problem=f"{error.code}: {error}")
        except CreditsError as error:
            _log.warning("intent %s of user %r waits: %s", intent.id, intent.user_id, error)

    # --- what is done ---------------------------------------------------------------------------

    async def _release(self, intent: Intent) -> None:
        operation = self._operation("release", intent)
        hold = intent.id.encode()
        call = hold_wire.release_call(operation, hold)
        pending = Pending("release", operation, call, hold_wire.released, (hold,))
        try:
            await self._carrier.carry_out(pending, "memory")
        except (HoldNotFoundError, HoldFinishedError) as error:
            if isinstance(error, HoldFinishedError) and error.state == "captured":
                raise
            await self._intents.settle(intent.id)

    async def _charge(self, intent: Intent) -> None:
        try:
            await self._capture(intent, intent.id)
        except HoldFinishedError as error:
            if error.state == "captured":
                return
        except HoldNotFoundError:
            pass
        else:
            return
        await self._stand_in(intent)

    async def _stand_in(self, intent: Intent) -> None:
        """Charge what a hold was for that is there no more."""
        other = stand_in(intent.id)
        operation = self._operation("reserve", intent)._replace(operation_id=other)
        if await self._is_done(operation):
            _log.debug("hold %s stands in already", other)
        else:
            call = hold_wire.reserve_call(
                operation, _price(0), hold_ms=HOLD_MS, open_max=hold_wire.IN_ANY_CASE
            )
            made = Pending("reserve", operation, call, hold_wire.reserved, (_price(0),))
            await self._carrier.carry_out(made, "memory")
        try:
            await self._capture(intent, other)
        except HoldFinishedError as error:
            if error.state != "captured":
                raise
            return
        self.stood_in += 1
        _log.warning(
            "the hold %s of user %r was lost; its %s credits are charged without it",
            intent.id,
            intent.user_id,
            to_credits(intent.micros),
        )

    async def _capture(self, intent: Intent, hold_id: str) -> None:
        operation, hold = self._operation("capture", intent), hold_id.encode()
        quote = _price(intent.micros)
        call = hold_wire.capture_call(operation, hold, quote, final=True, above="debt")
        pending = Pending("capture", operation, call, hold_wire.captured, (hold, quote))
        await self._carrier.carry_out(pending, "memory")

    async def _add(self, intent: Intent) -> None:
        """Grant or refund, under the intent's own id: the ledger has it once, or not yet."""
        operation = self._operation(intent.kind, intent)._replace(operation_id=intent.id)
        if await self._is_done(operation):
            return
        await self._carrier.carry_out(_addition(intent, operation), "memory")

    async def _is_done(self, operation: Operation) -> bool:
        effect = await repeat(
            lambda: self._router.follow(
                operation.partition, lambda lane: effect_of(self._records, lane, operation)
            ),
            self._config.retry,
        )
        return effect.transaction_id is not None

    def _operation(self, verb: str, intent: Intent) -> Operation:
        made = self._operations.new(verb, intent.user_id, intent.action, None, None)
        return made._replace(
            audited=wire.AUDIT_ALL if intent.audited else wire.AUDIT_NONE,
            # Checked before the commit; what PostgreSQL gives back may be longer than a caller's may be.
            metadata=_json(intent.metadata).encode() if intent.metadata else b"",
        )


def _price(micros: int) -> Quote:
    """This price, whatever tier the user has by now."""
    return Quote((Option(b"", b"%d" % micros),))


def _addition(intent: Intent, operation: Operation) -> Pending[Any]:
    micros, subject = intent.micros, str(intent.micros)
    if intent.kind == "grant":
        call = wire.grant_call(operation, micros)
        return Pending("grant", operation, call, wire.granted, (micros,), subject)
    related = (intent.related_id or "").encode()
    call = wire.refund_call(operation, micros, related, bounded=intent.bounded)
    return Pending("refund", operation, call, wire.refunded, (micros, related), subject, related)
