"""Checked operations: what a caller asked for, in the form that travels."""

from __future__ import annotations

import random
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from credits_fast import arguments
from credits_fast.amounts import to_micros
from credits_fast.errors import InvalidArgumentError
from credits_fast.exact import plain
from credits_fast.ids import operation_id
from credits_fast.named_tuples import new
from credits_fast.protocol.keys import fingerprint
from credits_fast.protocol.wire import AUDIT_ALL, AUDIT_NONE, AUDIT_SUCCESS, Operation

if TYPE_CHECKING:
    from credits_fast.amounts import Amount
    from credits_fast.config import AuditConfig, CreditsConfig
    from credits_fast.protocol.keys import PartitionKeys, Partitions
    from credits_fast.types import Metadata, Variables

__all__ = ["GRACE_MS", "Operations", "asked_for", "canonical"]

GRACE_MS: Final = 1_000
"""How much longer than its time to live a record stays in Redis."""

_NO_FINGERPRINT: Final = b"-"
_DEADLINES_REMEMBERED: Final = 6
_ACTIONS_KEPT: Final = 1_024
_USERS_KEPT: Final = 8_192
"""Users whose bytes and partition are not looked for again: about 2 MB."""
_CANONICAL_MAX: Final = 8_192


class Operations:
    """Makes operations of one configuration.

    An operation without a key is remembered under its own id, for longer than the library may go on
    repeating it; one with a key for as long as the configuration says.

    Args:
        config: The configuration.
        partitions: The partitions its users fall into.
        grace_ms: How much longer than its time to live a record stays in Redis.
    """

    def __init__(
        self, config: CreditsConfig, partitions: Partitions, *, grace_ms: int = GRACE_MS
    ) -> None:
        self._partitions = partitions
        self._user = lru_cache(maxsize=_USERS_KEPT)(self._whose)
        self._uses_keys = config.idempotency.enabled
        self._key_ttl_ms = config.idempotency.ttl_ms
        self._own_ttl_ms = _DEADLINES_REMEMBERED * config.retry.deadline_ms
        self._grace_ms = grace_ms
        self._refusal_rate = config.audit.refusal_rate
        self._audited = _audited(config.audit)

    def new(
        self,
        verb: str,
        user_id: str,
        action: str,
        idempotency_key: str | None,
        metadata: Metadata | None,
        *parameters: str,
    ) -> Operation:
        """An operation with an id of its own.

        Args:
            verb: The operation's name, part of the fingerprint.
            user_id: The user.
            action: The caller's action.
            idempotency_key: The caller's key, None for none.
            metadata: The caller's metadata.
            *parameters: What a repeated key must match besides verb and action.

        Raises:
            UserNotFoundError: The user id is empty.
            InvalidArgumentError: An identifier or the metadata cannot be used.
        """
        user, partition = self._user(user_id) if type(user_id) is str else self._whose(user_id)
        acting = _action(action) if type(action) is str else arguments.identifier("action", action)
        key, asked, ttl_ms = b"", _NO_FINGERPRINT, self._own_ttl_ms
        if idempotency_key is not None:
            key = arguments.identifier("idempotency_key", idempotency_key)
            if self._uses_keys:
                asked, ttl_ms = fingerprint(verb, action, *parameters), self._key_ttl_ms
            else:
                key = b""
        audited = self._audited or self._sampled()
        more = arguments.metadata_json(metadata) if metadata is not None else b""
        life_ms = ttl_ms + self._grace_ms
        return new(
            Operation,
            (partition, user, acting, key, operation_id(), asked, ttl_ms, life_ms, audited, more),
        )

    def _whose(self, user_id: str) -> tuple[bytes, PartitionKeys]:
        user = arguments.user_identifier(user_id)
        return user, self._partitions.of(user)

    def _sampled(self) -> bytes:
        """What the audit log gets of the next operation: of refusals, the configured share."""
        is_drawn = random.random() < self._refusal_rate  # noqa: S311  # a sample
        return AUDIT_ALL if is_drawn else AUDIT_SUCCESS


def _audited(config: AuditConfig) -> bytes | None:
    """What the audit log gets of every operation; None where it is drawn for each."""
    if not config.enabled:
        return AUDIT_NONE
    if 0 < config.refusal_rate < 1:
        return None
    return AUDIT_ALL if config.refusal_rate else AUDIT_SUCCESS


@lru_cache(maxsize=_ACTIONS_KEPT)
def _action(action: str) -> bytes:
    return arguments.identifier("action", action)


def asked_for(
    amount: Amount | None, variables: Variables | None, fingerprint: str | None
) -> tuple[str, ...]:
    """What of a price, and of the caller's own request, a repeated key must match.

    Raises:
        InvalidArgumentError: The amount, the fingerprint or a variable cannot be used.

    Example:
        >>> asked_for(2, None, "digest")
        ('2000000', 'fingerprint', 'digest', '')
    """
    named = "" if amount is None else str(to_micros(amount))
    if fingerprint is None:
        return named, canonical(variables) if variables else ""
    given = arguments.identifier("fingerprint", fingerprint).decode()
    # Before the variables, each of which has a `=`: so neither can be taken for the other.
    return named, "fingerprint", given, canonical(variables)


def canonical(variables: Variables | None) -> str:
    """The variables as one text that is equal for equal numbers, however they are written.

    Example:
        >>> canonical({"b": 1.50, "a": 2}) == canonical({"a": Decimal(2), "b": Decimal("1.5")})
        True
    """
    if not variables:
        return ""
    text = "\0".join(f"{name}={_number(variables[name])}" for name in sorted(variables))
    if len(text) <= _CANONICAL_MAX:
        return text
    return blake2b(text.encode(errors="surrogatepass")).hexdigest()  # texts are kept: not long ones


def _number(value: object) -> str:
    if type(value) is int:
        return str(value) if abs(value) < 10**30 else hex(value)  # no huge decimal text
    if isinstance(value, float | Decimal):
        exact = Decimal(repr(value)) if isinstance(value, float) else value
        return plain(exact) if exact.is_finite() and abs(exact.adjusted()) < 30 else repr(value)  # noqa: PLR2004
    try:
        return repr(value)
    except (ValueError, RecursionError) as error:  # more digits than Python writes, or no end
        raise InvalidArgumentError("variables", "have a value that is too large") from error
