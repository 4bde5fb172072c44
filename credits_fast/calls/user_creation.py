"""Creating a user: the ledger first, in one commit, because it is the source of record for who exists.

The user's row, the transaction of the first credits, the audit row and the idempotency record are
one SQL transaction. Redis learns of the account right after, so that the first charge finds it and
no program goes on thinking that the user is unknown; had that failed, the first charge would load it.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from credits_fast.amounts import json_number
from credits_fast.calls.retry import repeat
from credits_fast.errors import (
    CreditsError,
    IdempotencyKeyConflictError,
    UserAlreadyExistsError,
)
from credits_fast.json_text import JsonText, json_object
from credits_fast.ledger.records import NewUser
from credits_fast.protocol import wire

if TYPE_CHECKING:
    from datetime import datetime

    from credits_fast.calls.accounts import Accounts
    from credits_fast.calls.courier import Courier
    from credits_fast.calls.dispatch import Dispatcher
    from credits_fast.config import RetryConfig
    from credits_fast.ledger.records import Records
    from credits_fast.protocol.wire import Operation

__all__ = ["UserCreation"]

_log = logging.getLogger(__name__)

_VERB = "createUser"


class UserCreation:
    """Creates users of one ledger."""

    def __init__(
        self,
        records: Records,
        accounts: Accounts,
        courier: Courier,
        dispatcher: Dispatcher,
        retry: RetryConfig,
    ) -> None:
        self._records = records
        self._accounts = accounts
        self._courier = courier
        self._dispatcher = dispatcher
        self._retry = retry

    async def create(
        self,
        operation: Operation,
        micros: int,
        tier: str | None,
        expires_at: datetime | None,
        now: datetime,
    ) -> None:
        """The user exists afterwards, with these first credits and this membership.

        Raises:
            UserAlreadyExistsError: The id is taken, and not by a call with the same key.
            IdempotencyKeyConflictError: The key was used for something else.
            DatabaseUnavailableError: The database cannot be reached.
        """
        user = _new_user(operation, micros, tier, expires_at, now)
        attempts = 0

        async def attempt() -> bool:
            nonlocal attempts
            attempts += 1
            return await self._records.create_user(user)

        created = await repeat(attempt, self._retry)
        if not created and not await self._is_ours(user, operation, repeated=attempts > 1):
            await self._courier.note_refusal(operation, _VERB, "user_already_exists")
            raise UserAlreadyExistsError(user.user_id)
        await self._tell_redis(operation, now)

    async def _is_ours(self, user: NewUser, operation: Operation, *, repeated: bool) -> bool:
        """Whether the user exists because of this very call, or of an earlier one with its key.

        Without a key only the moment tells; two calls may share one, so it is asked only where an
        attempt of ours may have taken effect without an answer.
        """
        if not user.key:
            return repeated and await self._records.was_created(user)
        remembered = await self._records.remembered(user.user_id, user.key)
        if remembered is None or remembered.expires_at < user.created_at:
            return False
        if remembered.fingerprint == user.fingerprint:
            return True
        details = (remembered.transaction_id, "", "")
        await self._courier.note_refusal(operation, _VERB, "idempotency_key_conflict", details)
        raise IdempotencyKeyConflictError(user.key, remembered.transaction_id)

    async def _tell_redis(self, operation: Operation, now: datetime) -> None:
        partition = operation.partition
        self._accounts.forget(operation.user)
        try:
            await self._courier.account(partition, operation.user)
            if operation.key:
                keys = (partition.gate, operation.record_key)
                arguments = (wire.record(operation, now), b"%d" % operation.life_ms)
                router = self._dispatcher.router
                await router.run_script(partition, "remember", keys, arguments)
        except CreditsError as error:
            _log.warning(
                "user %r is created; Redis could not be told: %s", operation.user_id, error
            )


def _new_user(
    operation: Operation,
    micros: int,
    tier: str | None,
    expires_at: datetime | None,
    now: datetime,
) -> NewUser:
    facts = {
        "userId": operation.user_id,
        "membershipTier": tier,
        "membershipExpiresAt": None if expires_at is None else wire.iso(expires_at),
    }
    return NewUser(
        user_id=operation.user_id,
        micros=micros,
        tier=tier,
        expires_at=expires_at,
        operation_id=operation.operation_id,
        key=operation.key.decode(),
        fingerprint=operation.fingerprint.decode(),
        metadata=operation.metadata.decode(),
        result=json_object({**facts, "credits": JsonText(json_number(micros))}),
        audited=operation.audited != wire.AUDIT_NONE,
        created_at=now,
        key_expires_at=now + timedelta(milliseconds=operation.ttl_ms),
    )
