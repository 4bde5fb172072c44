"""`credits.in_transaction(session)`: charged, granted, refunded if and only if that commits.

Within the block a charge holds its credits, and all three write an intent into the application's own
transaction. Leaving the block commits it, or rolls it back; only then is done what has been committed.
What is left open, because the program dies or Redis is away, the worker does.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from credits_fast import arguments
from credits_fast.amounts import to_credits, to_micros
from credits_fast.calls.operations import canonical
from credits_fast.calls.pending import Pending
from credits_fast.calls.retry import repeat
from credits_fast.calls.to_the_end import to_the_end
from credits_fast.errors import (
    CreditsError,
    IdempotencyKeyConflictError,
    InvalidArgumentError,
    RefundExceedsChargeError,
    TransactionNotFoundError,
)
from credits_fast.ledger.charges import known_charge
from credits_fast.protocol import hold_wire, wire
from credits_fast.protocol.keys import fingerprint
from credits_fast.transactions.intent_ids import intent_id
from credits_fast.transactions.intents import Intent, Intents
from credits_fast.transactions.settling import HOLD_MS, Settling

if TYPE_CHECKING:
    from decimal import Decimal
    from types import TracebackType

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

    from credits_fast.amounts import Amount
    from credits_fast.calls.carrying import Carrier
    from credits_fast.calls.courier import Courier
    from credits_fast.calls.operations import Operations
    from credits_fast.config import CreditsConfig
    from credits_fast.ledger.records import Records
    from credits_fast.prices.pricing import PriceList
    from credits_fast.protocol.wire import Operation
    from credits_fast.servers.routing import Router
    from credits_fast.types import Metadata, Variables

__all__ = ["Intended", "OwnTransaction", "Parts"]

_log: Final = logging.getLogger(__name__)


class Intended(NamedTuple):
    """What takes effect if the application's transaction commits.

    Attributes:
        id: The intent's id. A grant or refund has it as the id of its transaction; of a charge it is
            the hold's, which its transaction names as `related_id`.
        kind: `charge`, `grant` or `refund`.
        user_id: The user.
        amount: How many credits.
        replayed: Whether it was committed before, or said before in this transaction, under the same
            key; then nothing is added to it.
    """

    id: str
    kind: str
    user_id: str
    amount: Decimal
    replayed: bool


class Parts(NamedTuple):
    """What a block works with: the parts of an engine."""

    config: CreditsConfig
    operations: Operations
    prices: PriceList
    courier: Courier
    carrier: Carrier
    records: Records
    router: Router
    intents: Intents
    settling: Settling


class OwnTransaction:
    """What `CreditsEngine.in_transaction` gives; entered once.

    Attributes:
        unsettled: After the block, the ids of what was not decided and done at once; the worker does it.
    """

    def __init__(self, parts: Parts, session: AsyncSession | AsyncConnection) -> None:
        self._parts = parts
        self._session = session
        self._intents: list[Intent] = []
        self._is_open = False
        self._is_over = False
        self._is_checked = False
        self.unsettled: tuple[str, ...] = ()

    async def __aenter__(self) -> Self:
        from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession  # noqa: PLC0415  # only when used

        if self._is_open or self._is_over:
            raise InvalidArgumentError("transaction", "is entered once")
        if not isinstance(self._session, AsyncSession | AsyncConnection):
            raise InvalidArgumentError(
                "session", "must be an AsyncSession or AsyncConnection of SQLAlchemy"
            )
        self._is_open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_open, self._is_over = False, True
        try:
            if error is None:
                await self._commit()
            else:
                await self._session.rollback()
        finally:
            # Not what was asked for but what has become of it counts: a commit whose answer was lost may
            # have happened, and a savepoint may have taken an intent back.
            _, was_cancelled = await to_the_end(self._resolve())
        if was_cancelled:
            raise asyncio.CancelledError

    async def charge(
        self,
        user_id: str,
        action: str,
        *,
        amount: Amount | None = None,
        variables: Variables | None = None,
        idempotency_key: str | None = None,
        metadata: Metadata | None = None,
    ) -> Intended:
        """Charge the user if the transaction commits; the credits are held from now on.

        Args:
            user_id: The user.
            action: The action, whose price the configuration knows.
            amount: The price in credits, instead of the configured one.
            variables: Values for the variables of a price formula.
            idempotency_key: At most one transaction with it ever commits.
            metadata: Kept with the hold, the transaction and the audit entries.

        Raises:
            InsufficientCreditsError: The price is above what is available.
            RepeatedRequestError: Another transaction with the key has just committed, and this one cannot.
            IdempotencyKeyConflictError: The key was used for something else.
            InvalidArgumentError: An argument cannot be used.
            UnavailableError: Redis or the ledger cannot be reached; the transaction can be repeated.

        Also what `CreditsEngine.reserve` raises, and what SQLAlchemy raises for the INSERT. After any of
        these let the block end with the error, so that it rolls back.
        """
        parts = self._parts
        if variables is not None:
            arguments.check_variables(variables)
        quote = parts.prices.quote_for(action, amount, variables)
        named = "" if amount is None else str(to_micros(amount))
        operation = self._operation("reserve", user_id, action, metadata)
        print_ = fingerprint("charge", action, named, canonical(variables)).decode()
        known = await self._known(operation, idempotency_key, print_)
        if known is not None:
            return known
        call = hold_wire.reserve_call(
            operation, quote, hold_ms=HOLD_MS, open_max=parts.config.holds.open_max
        )
        pending = Pending(
            "reserve", operation, call, hold_wire.reserved, (quote,), extra=quote.variables
        )
        made = await parts.carrier.carry_out(pending, None)
        intent = _intent("charge", operation, to_micros(made.amount), metadata)
        return await self._say(intent, idempotency_key, print_)

    async def grant(
        self,
        user_id: str,
        amount: Amount,
        action: str,
        *,
        idempotency_key: str | None = None,
        metadata: Metadata | None = None,
    ) -> Intended:
        """Add credits if the transaction commits; they are available right after that.

        Args:
            user_id: The user.
            amount: Credits, more than 0.
            action: The caller's word for it, such as `purchase`.
            idempotency_key: At most one transaction with it ever commits.
            metadata: Kept with the transaction and the audit entry.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.

        Also what `charge` raises about keys, arguments and availability.
        """
        micros = to_micros(amount, minimum=1)
        operation = self._operation("grant", user_id, action, metadata)
        print_ = fingerprint("grant", action, str(micros)).decode()
        known = await self._known(operation, idempotency_key, print_)
        if known is not None:
            return known
        await self._parts.courier.account(operation.partition, operation.user)
        intent = _intent("grant", operation, micros, metadata)
        return await self._say(intent, idempotency_key, print_)

    async def refund(
        self,
        user_id: str,
        amount: Amount,
        action: str,
        *,
        transaction_id: str | None = None,
        idempotency_key: str | None = None,
        metadata: Metadata | None = None,
    ) -> Intended:
        """Give credits back if the transaction commits.

        Args:
            user_id: The user.
            amount: Credits, more than 0.
            action: The caller's word for it.
            transaction_id: The charge that is given back; required by `refunds.above_charge = "refuse"`.
            idempotency_key: At most one transaction with it ever commits.
            metadata: Kept with the transaction and the audit entry.

        Raises:
            UserNotFoundError: Neither Redis nor the ledger knows the user.
            TransactionNotFoundError: The user has no such charge yet.
            RefundExceedsChargeError: As of now the refunds would pass the charge, and may not.

        Also what `charge` raises about keys, arguments and availability.
        """
        micros = to_micros(amount, minimum=1)
        bounded = self._parts.config.refunds.above_charge == "refuse"
        if bounded and transaction_id is None:
            raise InvalidArgumentError("transaction_id", "is required by refunds.above_charge")
        if transaction_id is not None:
            arguments.identifier("transaction_id", transaction_id)
        operation = self._operation("refund", user_id, action, metadata)
        print_ = fingerprint("refund", action, str(micros), transaction_id or "").decode()
        known = await self._known(operation, idempotency_key, print_)
        if known is not None:
            return known
        await self._parts.courier.account(operation.partition, operation.user)
        if transaction_id is not None:
            await self._check_charge(operation, transaction_id, micros, bounded=bounded)
        intent = _intent("refund", operation, micros, metadata, transaction_id, bounded=bounded)
        return await self._say(intent, idempotency_key, print_)

    async def _commit(self) -> None:
        try:
            await self._session.commit()
        except BaseException:
            # Whatever went wrong comes first; a connection that is gone has nothing to roll back.
            with suppress(Exception):
                await self._session.rollback()
            raise

    # --- details --------------------------------------------------------------------------------

    def _operation(
        self, verb: str, user_id: str, action: str, metadata: Metadata | None
    ) -> Operation:
        if not self._is_open:
            raise InvalidArgumentError("transaction", "is not open: use it within its block")
        made = self._parts.operations.new(verb, user_id, action, None, metadata)
        return made._replace(operation_id=intent_id(made.operation_id))

    async def _known(self, operation: Operation, key: str | None, print_: str) -> Intended | None:
        """What the key stands for already, after a look at where the transaction leads."""
        connection = await self._connection()
        if not self._is_checked:
            await self._parts.intents.check_home(connection)
            self._is_checked = True
        if key is None:
            return None
        arguments.identifier("idempotency_key", key)
        found = await self._parts.intents.of_key(connection, operation.user_id, key)
        if found is None:
            return None
        if found.fingerprint != print_:
            raise IdempotencyKeyConflictError(key, found.id)
        return _intended(found, replayed=True)

    async def _say(self, intent: Intent, key: str | None, print_: str) -> Intended:
        """Write the intent; from here on it is looked after, whatever happens."""
        complete = intent.of_request(key, print_)
        self._intents.append(complete)
        await self._parts.intents.write(await self._connection(), complete)
        return _intended(complete, replayed=False)

    async def _connection(self) -> AsyncConnection:
        from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415  # only when used

        if isinstance(self._session, AsyncSession):
            return await self._session.connection()
        return self._session

    async def _check_charge(
        self, operation: Operation, transaction_id: str, micros: int, *, bounded: bool
    ) -> None:
        parts = self._parts
        charge = await repeat(
            lambda: parts.router.follow(
                operation.partition,
                lambda lane: known_charge(parts.records, lane, operation, transaction_id),
            ),
            parts.config.retry,
        )
        if charge is None:
            raise TransactionNotFoundError(operation.user_id, transaction_id)
        if bounded and charge.refunded + micros > charge.charged:
            raise RefundExceedsChargeError(
                operation.user_id,
                transaction_id,
                charged=to_credits(charge.charged),
                refunded=to_credits(charge.refunded),
                amount=to_credits(micros),
            )

    async def _resolve(self) -> None:
        """Do what has been committed, give back what has not; whatever fails is left to the worker."""
        left: list[str] = []
        for intent in self._intents:
            try:
                is_settled = await self._parts.settling.resolve(intent)
            except CreditsError as error:
                _log.warning("intent %s of user %r waits: %s", intent.id, intent.user_id, error)
                is_settled = False
            if not is_settled and await self._is_left(intent):
                left.append(intent.id)
        self.unsettled = tuple(left)

    async def _is_left(self, intent: Intent) -> bool:
        """Whether there is something to do for the worker: nothing for a grant that was rolled back."""
        if intent.kind == "charge":
            return True
        try:
            return await self._parts.intents.state(intent.id) is not None
        except CreditsError:
            return True


def _intent(
    kind: str,
    operation: Operation,
    micros: int,
    metadata: Metadata | None,
    related_id: str | None = None,
    *,
    bounded: bool = False,
) -> Intent:
    return Intent(
        operation.operation_id,
        kind,
        operation.user_id,
        operation.action.decode(),
        micros,
        {} if metadata is None else dict(metadata),
        related_id,
        bounded=bounded,
        audited=operation.audited != wire.AUDIT_NONE,
        key=None,
        fingerprint="",
        partition=operation.partition.number,
    )


def _intended(intent: Intent, *, replayed: bool) -> Intended:
    return Intended(intent.id, intent.kind, intent.user_id, to_credits(intent.micros), replayed)
