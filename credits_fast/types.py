"""The values that travel: what operations return and what a batch of charges is made of.

All are frozen. Amounts are exact `Decimal` credits, times are aware UTC datetimes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, TypeAlias, overload

from credits_fast.amounts import Amount  # noqa: TC001  # found by tools that read annotations
from credits_fast.exact import EXACT

__all__ = [
    "UNCHANGED",
    "AboveHold",
    "AuditEntry",
    "CaptureResult",
    "Charge",
    "ChargeResult",
    "ExtendResult",
    "GrantResult",
    "HistoryPage",
    "HoldState",
    "Kind",
    "Level",
    "Metadata",
    "RefundResult",
    "ReleaseResult",
    "ReserveResult",
    "Resolution",
    "TierChangeResult",
    "Transaction",
    "Unchanged",
    "User",
    "Variables",
]

Metadata: TypeAlias = Mapping[str, Any]
"""What the caller wants to remember: a JSON object, at most 4 KiB and 8 levels deep."""

Variables: TypeAlias = Mapping[str, int | float | Decimal]
"""The values of a formula's variables."""

Kind: TypeAlias = Literal["charge", "refund", "grant", "tier"]
"""What a transaction is: the word is the same in the journal, the ledger and here."""

AboveHold: TypeAlias = Literal["debt", "cap", "refuse"]
"""What becomes of a capture whose price is above what the hold keeps: all of it is charged, below zero
where it must; what is held is charged; nothing is, and the hold stays open."""

HoldState: TypeAlias = Literal["reserved", "captured", "released", "expired"]
"""What a hold is: open, or what became of it."""


Level: TypeAlias = Literal["memory", "replicated", "fsynced", "committed"]
"""How far a decision is known to have come: docs/guarantees.md says what each survives."""


class Unchanged(Enum):
    """The type of `UNCHANGED`."""

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED
"""Leave the expiry as it is; None would clear it."""


@dataclass(frozen=True, slots=True)
class User:
    """A user as Redis decides by it at this moment.

    Attributes:
        id: The application's id of the user.
        credits: The balance, reserved credits included.
        reserved: Credits held for charges that are not finished.
        membership_tier: The stored tier, None where there is none.
        membership_expires_at: When the membership ends, None where it does not.
        sequence: How many transactions the user has had.
    """

    id: str
    credits: Decimal
    reserved: Decimal
    membership_tier: str | None
    membership_expires_at: datetime | None
    sequence: int

    @property
    def available(self) -> Decimal:
        """What a charge may take: the balance less what is reserved."""
        return EXACT.subtract(self.credits, self.reserved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One charge of a batch; the fields are the parameters of `CreditsEngine.charge`."""

    user_id: str
    action: str
    amount: Amount | None = None
    variables: Variables | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    metadata: Metadata | None = None
    acknowledge: Level | None = None


class ChargeResult(NamedTuple):
    """A charge that took effect.

    Attributes:
        transaction_id: Its id in the ledger.
        cost: What was taken, in credits.
        balance_before: The balance before it.
        balance_after: The balance after it.
        replayed: Whether this is the first result of an earlier call with the same key.
        acknowledged: The level that is known to be reached; `memory` where another one was asked for
            and could not be confirmed in time. The operation took effect all the same.
    """

    transaction_id: str
    cost: Decimal
    balance_before: Decimal
    balance_after: Decimal
    replayed: bool = False
    acknowledged: Level = "memory"


class RefundResult(NamedTuple):
    """A refund that took effect; the attributes are those of `GrantResult`."""

    transaction_id: str
    amount: Decimal
    balance_before: Decimal
    balance_after: Decimal
    replayed: bool = False
    acknowledged: Level = "memory"


class GrantResult(NamedTuple):
    """A grant that took effect.

    Attributes:
        transaction_id: Its id in the ledger.
        amount: What was added, in credits.
        balance_before: The balance before it.
        balance_after: The balance after it.
        replayed: Whether this is the first result of an earlier call with the same key.
        acknowledged: The level that is known to be reached; `memory` where another one was asked for
            and could not be confirmed in time. The operation took effect all the same.
    """

    transaction_id: str
    amount: Decimal
    balance_before: Decimal
    balance_after: Decimal
    replayed: bool = False
    acknowledged: Level = "memory"


class ReserveResult(NamedTuple):
    """Credits that are held for a charge to come.

    Attributes:
        hold_id: The hold's id, for `capture` and `release`.
        amount: What is held, in credits.
        expires_at: When the hold ends by itself.
        balance: The balance, what is held included.
        reserved: What all holds of the user keep, this one included.
        replayed: Whether this is the first result of an earlier call with the same key.
        acknowledged: The level that is known to be reached; `memory` where another one was asked for
            and could not be confirmed in time. The operation took effect all the same.
    """

    hold_id: str
    amount: Decimal
    expires_at: datetime
    balance: Decimal
    reserved: Decimal
    replayed: bool = False
    acknowledged: Level = "memory"

    @property
    def available(self) -> Decimal:
        """What charges and other holds may take: the balance less what is reserved."""
        return EXACT.subtract(self.balance, self.reserved)


class ExtendResult(NamedTuple):
    """More time, or more credits, for a hold.

    Attributes:
        hold_id: The hold.
        amount: What was added, in credits.
        kept: What the hold keeps now, in credits.
        expires_at: When the hold ends by itself now.
        balance: The balance, what is held included.
        reserved: What all holds of the user keep, this one included.
        replayed: Whether this is the first result of an earlier call with the same key.
        acknowledged: Always `memory`: were an extension lost, the hold would be as it was before.
    """

    hold_id: str
    amount: Decimal
    kept: Decimal
    expires_at: datetime
    balance: Decimal
    reserved: Decimal
    replayed: bool = False
    acknowledged: Level = "memory"

    @property
    def available(self) -> Decimal:
        """What charges and other holds may take: the balance less what is reserved."""
        return EXACT.subtract(self.balance, self.reserved)


class CaptureResult(NamedTuple):
    """A charge of what a hold has kept.

    Attributes:
        transaction_id: Its id in the ledger.
        hold_id: The hold.
        cost: What was taken, in credits.
        price: What it should have cost: more than `cost` only where captures are capped.
        balance_before: The balance before it.
        balance_after: The balance after it.
        reserved: What the hold still keeps; 0 where it is finished.
        finished: Whether the hold is finished by it.
        replayed: Whether this is the first result of an earlier call with the same key.
        acknowledged: The level that is known to be reached; `memory` where another one was asked for
            and could not be confirmed in time. The operation took effect all the same.
    """

    transaction_id: str
    hold_id: str
    cost: Decimal
    price: Decimal
    balance_before: Decimal
    balance_after: Decimal
    reserved: Decimal
    finished: bool
    replayed: bool = False
    acknowledged: Level = "memory"


class ReleaseResult(NamedTuple):
    """A hold that was given up.

    Attributes:
        hold_id: The hold.
        amount: What it still kept, in credits: available again.
        balance: The balance.
        reserved: What the user's other holds keep.
        replayed: Whether this is the first result of an earlier call with the same key.
        acknowledged: Always `memory`: were a release lost, the hold would expire.
    """

    hold_id: str
    amount: Decimal
    balance: Decimal
    reserved: Decimal
    replayed: bool = False
    acknowledged: Level = "memory"


class TierChangeResult(NamedTuple):
    """An upgrade, a downgrade or a renewal that took effect.

    Attributes:
        transaction_id: Its id in the ledger.
        old_tier: The stored tier before, None where there was none.
        new_tier: The stored tier after.
        old_credits: The balance before.
        new_credits: The balance after.
        credits_delta: The difference, of either sign.
        membership_expires_at: When the membership ends now, None where it does not.
        replayed: Whether this is the first result of an earlier call with the same key.
        acknowledged: The level that is known to be reached; `memory` where another one was asked for
            and could not be confirmed in time. The operation took effect all the same.
    """

    transaction_id: str
    old_tier: str | None
    new_tier: str
    old_credits: Decimal
    new_credits: Decimal
    credits_delta: Decimal
    membership_expires_at: datetime | None
    replayed: bool = False
    acknowledged: Level = "memory"


Result: TypeAlias = (
    ChargeResult
    | GrantResult
    | RefundResult
    | TierChangeResult
    | ReserveResult
    | ExtendResult
    | CaptureResult
    | ReleaseResult
)
"""What a changing operation gives."""


class Resolution(NamedTuple):
    """What became of an operation whose outcome was unknown.

    Attributes:
        operation_id: The operation.
        transaction_id: The transaction that is its effect, or the hold that was made, extended or
            released; None where it has had none so far.
        result: The result its call would have given; None where it could only be looked up.
    """

    operation_id: str
    transaction_id: str | None
    result: Result | None

    @property
    def took_effect(self) -> bool:
        """Whether it has had an effect."""
        return self.transaction_id is not None


@dataclass(frozen=True, slots=True)
class Transaction:
    """A row of the ledger.

    Attributes:
        id: The id the operation returned.
        user_id: Whose balance it changed.
        kind: `charge`, `refund`, `grant` or `tier`.
        action: The caller's action; `tier-upgrade`, `tier-downgrade` or `tier-renewal`.
        amount: Signed: minus is out, plus is in.
        balance_before: The balance before it.
        balance_after: The balance after it.
        sequence: Its number among the user's transactions, without gaps.
        metadata: The caller's metadata and the facts of the price.
        idempotency_key: The caller's key, None where there was none.
        related_id: The charge that a refund gives back, or the hold that a charge captures; None where
            it names none.
        created_at: When Redis executed it.
    """

    id: str
    user_id: str
    kind: Kind
    action: str
    amount: Decimal
    balance_before: Decimal
    balance_after: Decimal
    sequence: int
    metadata: Mapping[str, Any]
    idempotency_key: str | None
    related_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A row of the audit log.

    Attributes:
        user_id: Who it was about; the user need not exist.
        action: The operation: `charge`, `refund`, `grant`, `reserve`, `extend`, `capture`, `release`,
            `expire`, `upgradeTier`, `downgradeTier`, `renewMembership`, `createUser` or `validateAccess`.
        status: `success` or `failed`.
        metadata: The facts, and the caller's metadata.
        error_code: The code of the refusal, None for a success.
        error_message: The message of the refusal, None for a success.
        transaction_id: The ledger row of a success, None where there is none.
        created_at: When it was decided.
    """

    user_id: str
    action: str
    status: Literal["success", "failed"]
    metadata: Mapping[str, Any]
    error_code: str | None
    error_message: str | None
    transaction_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class HistoryPage(Sequence[Transaction]):
    """A page of a user's ledger, newest first; a sequence of transactions.

    Attributes:
        transactions: The rows.
        next_cursor: What to give as `cursor` for the next page, None at the end.
    """

    transactions: tuple[Transaction, ...]
    next_cursor: str | None

    def __len__(self) -> int:
        return len(self.transactions)

    def __iter__(self) -> Iterator[Transaction]:
        return iter(self.transactions)

    @overload
    def __getitem__(self, index: int) -> Transaction: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Transaction, ...]: ...
    def __getitem__(self, index: int | slice) -> Transaction | tuple[Transaction, ...]:
        return self.transactions[index]
