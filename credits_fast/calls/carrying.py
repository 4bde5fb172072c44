"""An operation carried out: decided by its script, read, logged, and acknowledged as far as is asked.

What a script cannot decide alone is settled in between, by what the ledger knows:

    cold_charge    the charge a refund names is brought into Redis, and the refund is sent again
    unknown_hold   the hold is open no more: the capture that finished it is told its first result, any
                   other operation what became of it

Where nobody can tell whether an operation took effect, its error leads back to it, and `resolve` finds
out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from credits_fast import logs
from credits_fast.calls.finished_holds import finished_hold, first_reply, hold_state
from credits_fast.calls.retry import repeat
from credits_fast.errors import (
    CreditsError,
    OutcomeUnknownError,
    RefusedError,
    TransactionNotFoundError,
    UnavailableError,
)
from credits_fast.ledger.charges import known_charge
from credits_fast.protocol import wire
from credits_fast.protocol.refusals import error_for
from credits_fast.servers.acknowledgement import Receipt
from credits_fast.types import (
    CaptureResult,
    ChargeResult,
    ExtendResult,
    GrantResult,
    RefundResult,
    ReleaseResult,
    ReserveResult,
    Resolution,
    TierChangeResult,
)

if TYPE_CHECKING:
    from credits_fast.calls.commits import Commits
    from credits_fast.calls.courier import Courier
    from credits_fast.calls.dispatch import Dispatcher
    from credits_fast.calls.levels import Levels
    from credits_fast.calls.outcomes import Effect
    from credits_fast.calls.pending import Pending
    from credits_fast.config import CreditsConfig
    from credits_fast.ledger.records import Records
    from credits_fast.protocol.wire import Operation
    from credits_fast.servers.routing import Router
    from credits_fast.types import Level, Result

__all__ = ["Carrier"]

_R = TypeVar(
    "_R",
    ChargeResult,
    GrantResult,
    RefundResult,
    TierChangeResult,
    ReserveResult,
    ExtendResult,
    CaptureResult,
    ReleaseResult,
)

_UNSETTLED: Final = (wire.COLD_CHARGE, wire.UNKNOWN_HOLD)
_NEVER_WAITED: Final = ("extend", "release")
"""Were one of these lost, the hold would be as it was before, and expire: nobody has to wait for it."""
_REFUNDED_TTL_MS: Final = 86_400_000
"""How long Redis keeps what was refunded of a charge; after that the ledger is asked again."""


class Carrier:
    """Carries operations out.

    Attributes:
        calls: How many ended how: by verb, and `done`, `replayed`, `cancelled` or the error's code.

    Args:
        config: The configuration.
        courier: Takes calls to the scripts.
        levels: The ways for levels of acknowledgement.
        commits: Tells when the ledger has something.
        records: The ledger's side.
        router: Which lane leads to a partition.
    """

    def __init__(
        self,
        config: CreditsConfig,
        *,
        courier: Courier,
        levels: Levels,
        commits: Commits,
        records: Records,
        router: Router,
    ) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self._config = config
        self._courier = courier
        self._levels = levels
        self._commits = commits
        self._records = records
        self._router = router

    async def carry_out(self, pending: Pending[_R], acknowledge: Level | None) -> _R:
        """The result of an operation; where nobody can tell, the error leads back to it.

        Args:
            pending: The operation.
            acknowledge: How far it has to have come, None for the configured level.

        Raises:
            CreditsError: What was refused, or kept it from being decided.
        """
        level = "memory" if pending.verb in _NEVER_WAITED else self._levels.asked(acknowledge)
        try:
            if level == "memory":  # without a coroutine more: this is the way of nearly every call
                answer = self._courier.send(pending)
                try:
                    reply = await answer
                except CreditsError:
                    reply = b""  # `carry_on` meets it again
                if not reply.startswith(wire.DONE):
                    reply = await self._decided(pending, answer)
                result = _read(pending, reply)
            else:
                result = await self._acknowledged(pending, level)
        except CreditsError as error:
            self.calls[pending.verb, error.code] += 1
            if isinstance(error, OutcomeUnknownError):
                error.pending = pending
            raise
        except asyncio.CancelledError as cancelled:
            self.calls[pending.verb, "cancelled"] += 1
            operation_id = pending.operation.operation_id
            why = "its caller was cancelled"
            raise cancelled from OutcomeUnknownError(operation_id, why, pending)
        self.calls[pending.verb, "replayed" if result.replayed else "done"] += 1
        return result

    async def resolve(self, error: BaseException, *, repeat_it: bool) -> Resolution:
        """What became of an operation whose outcome was unknown; see `CreditsEngine.resolve`."""
        from credits_fast.calls.outcomes import may_be_repeated, pending_of  # noqa: PLC0415

        pending = pending_of(error)
        operation = pending.operation
        first = await self._first_reply(pending)
        if first is not None:
            return Resolution(operation.operation_id, operation.operation_id, _read(pending, first))
        effect = await self._effect_of(pending)
        in_time = may_be_repeated(operation, self._config.retry.deadline_ms)
        if in_time and (effect.is_remembered or (repeat_it and effect.transaction_id is None)):
            result = await self.carry_out(pending, None)
            return Resolution(operation.operation_id, _id_of(result), result)
        if pending.verb == "extend" and effect.transaction_id is None and not in_time:
            why = "the ledger has no row of an extension, and Redis has forgotten it"
            raise OutcomeUnknownError(operation.operation_id, why, pending)
        return Resolution(operation.operation_id, effect.transaction_id, None)

    async def hold_state(self, operation: Operation, hold_id: str) -> str | None:
        """What became of a hold that is not in Redis, None where its user has no such hold."""
        return await repeat(
            lambda: self._router.follow(
                operation.partition,
                lambda lane: hold_state(self._records, lane, operation, hold_id),
            ),
            self._config.retry,
        )

    async def _decided(self, pending: Pending[Any], first: asyncio.Future[bytes]) -> bytes:
        """The reply to an operation after a first answer that was not the end."""
        reply = await self._courier.carry_on(pending, first)
        if reply in _UNSETTLED:
            reply = await self._settled(pending, reply)
        return reply

    async def _acknowledged(self, pending: Pending[_R], level: Level) -> _R:
        """The result of an operation that has come as far as is asked, or says how far."""
        receipt = Receipt()
        via = await repeat(lambda: self._levels.way(level), self._config.retry)
        reply = await self._courier.deliver(pending, via, receipt)
        if reply in _UNSETTLED:
            reply = await self._settled(pending, reply, via, receipt)
        result = _read(pending, reply)
        reached = receipt.level
        if level == "committed" and await self._commits.wait(
            pending.operation.partition.number,
            _id_of(result),
            self._config.acknowledge.timeout_ms,
        ):
            reached = level
        return result._replace(acknowledged=reached)

    # --- what the ledger settles -----------------------------------------------------------------

    async def _settled(
        self,
        pending: Pending[Any],
        reply: bytes,
        via: Dispatcher | None = None,
        receipt: Receipt | None = None,
    ) -> bytes:
        """The reply once the ledger was asked about what Redis did not know."""
        if reply == wire.UNKNOWN_HOLD:
            first = await self._first_reply(pending)
            return first if first is not None else await self._refuse_finished(pending)
        await self._load_charge(pending)
        return await self._courier.deliver(pending, via, receipt)

    async def _load_charge(self, pending: Pending[Any]) -> None:
        """Bring what is known of a charge into Redis, so that its refunds can be bounded there."""
        operation, related = pending.operation, pending.extra
        partition = operation.partition
        charge = await repeat(
            lambda: self._router.follow(
                partition,
                lambda lane: known_charge(self._records, lane, operation, related.decode()),
            ),
            self._config.retry,
        )
        if charge is None:
            await self._courier.note_refusal(
                operation,
                pending.verb,
                "transaction_not_found",
                subject=pending.subject,
                extra=related,
            )
            raise TransactionNotFoundError(operation.user_id, related.decode())
        keys = (partition.gate, partition.refunded(related))
        sums = (b"%d" % charge.charged, b"%d" % charge.refunded)
        facts = (operation.user, *sums, b"%d" % _REFUNDED_TTL_MS)
        await self._router.run_script(partition, "load_charge", keys, facts)

    async def _first_reply(self, pending: Pending[Any]) -> bytes | None:
        """What an operation was told that has finished its hold; None for any other.

        Raises:
            OutcomeUnknownError: Whether it has finished it cannot be found out for now.
        """
        if pending.call.record:
            return None  # Redis remembers it, or nobody does
        operation, (hold_id, quote) = pending.operation, pending.facts
        try:
            return await repeat(
                lambda: self._router.follow(
                    operation.partition,
                    lambda lane: first_reply(
                        self._records, lane, operation, hold_id.decode(), quote
                    ),
                ),
                self._config.retry,
            )
        except UnavailableError as error:
            raise OutcomeUnknownError(operation.operation_id, str(error), pending) from error

    async def _refuse_finished(self, pending: Pending[Any]) -> NoReturn:
        """Say what became of a hold that Redis does not have.

        Raises:
            HoldNotFoundError: The user has no such hold.
            HoldFinishedError: It was captured or released, or has expired.
        """
        operation, hold_id = pending.operation, pending.facts[0].decode()
        refusal = finished_hold(operation, hold_id, await self.hold_state(operation, hold_id))
        error = error_for(refusal)
        logs.refused(pending.verb, operation, error.code)
        await self._courier.note_refusal(
            operation, pending.verb, refusal.code, refusal.details, extra=pending.extra
        )
        raise error

    async def _effect_of(self, pending: Pending[Any]) -> Effect:
        """What an operation has done so far."""
        from credits_fast.calls.outcomes import Effect, effect_of  # noqa: PLC0415

        operation = pending.operation
        effect = await repeat(
            lambda: self._router.follow(
                operation.partition, lambda lane: effect_of(self._records, lane, operation)
            ),
            self._config.retry,
        )
        if effect.transaction_id is None and pending.verb == "release":
            hold_id = pending.facts[0].decode()
            if await self.hold_state(operation, hold_id) == "released":
                return Effect(hold_id, is_remembered=False)
        return effect


def _read(pending: Pending[_R], reply: bytes) -> _R:
    """The result a reply holds, logged; a refusal is logged and raised."""
    verb, operation = pending.verb, pending.operation
    try:
        result = pending.read(reply, operation, *pending.facts)
    except RefusedError as error:
        logs.refused(verb, operation, error.code)
        raise
    if logs.hears_decisions():
        logs.decided(verb, operation, _delta(result), replayed=result.replayed)
    return result


def _delta(result: Result) -> Decimal:
    """By how many credits the balance changed, signed; of a hold, what was held or given back."""
    match result:
        case ChargeResult() | CaptureResult():
            return -result.cost
        case TierChangeResult():
            return result.credits_delta
        case _:
            return result.amount


def _id_of(result: Result) -> str:
    """What the ledger knows the effect by: the transaction; the hold, where it is none."""
    if isinstance(result, ReserveResult | ExtendResult | ReleaseResult):
        return result.hold_id
    return result.transaction_id
