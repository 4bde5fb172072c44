"""A refusal as the scripts spell it, and the error it stands for: one table for caller and ledger.

The engine raises the error; the worker writes its message and code into the audit log. Both make it
here from the same facts, so that what a person reads later is what the caller was told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from credits_fast.amounts import to_credits
from credits_fast.errors import (
    BalanceLimitError,
    CaptureExceedsHoldError,
    CreditsError,
    HoldExpiredError,
    HoldFinishedError,
    HoldLimitError,
    HoldNotFoundError,
    IdempotencyKeyConflictError,
    InsufficientCreditsError,
    InvalidTierChangeError,
    MembershipRequiredError,
    RefundExceedsChargeError,
    TransactionNotFoundError,
    UndefinedActionError,
    UndefinedTierError,
    UserAlreadyExistsError,
    UserNotFoundError,
)

__all__ = [
    "REFUSALS",
    "TIER_REASONS",
    "UNPRICED",
    "Refusal",
    "code_and_message",
    "error_for",
    "unpriced_facts",
]

UNPRICED: Final = "unpriced"
"""The refusal that carries its error's own code: there is no price for this tier."""

TIER_REASONS: Final[Mapping[str, str]] = {
    "not_higher": "the target is not above the current tier",
    "not_lower": "the target is not below the current tier",
    "no_tier": "the user has no tier",
    "expired": "the membership has expired; give a new expiry",
}
"""Why a change of tier is refused, by the word that travels."""


class Refusal(NamedTuple):
    """The facts of a refusal.

    Attributes:
        code: Its name in the scripts, the error's code in lower case.
        user_id: Whose request it was.
        key: The idempotency key, "" where there was none.
        subject: The amount in micro-credits, or the target tier; "" where neither applies.
        related: The charge a refund names, "" where it names none.
        details: What the script found, as its header says; three fields.
    """

    code: str
    user_id: str
    key: str
    subject: str
    related: str
    details: tuple[str, str, str]


def error_for(refusal: Refusal) -> CreditsError:
    """The error a refusal stands for.

    Raises:
        KeyError: No such refusal exists.
    """
    return REFUSALS[refusal.code](refusal)


def code_and_message(refusal: Refusal) -> tuple[str, str]:
    """What the audit log writes of a refusal.

    Raises:
        KeyError: No such refusal exists.
    """
    if refusal.code == UNPRICED:
        return refusal.details[0], str(unpriced_facts(refusal)["error"])
    error = error_for(refusal)
    return error.code, error.message


def unpriced_facts(refusal: Refusal) -> dict[str, Any]:
    """The facts of a price that could not be worked out; names as in the reference."""
    facts: dict[str, Any] = json.loads(refusal.details[1])
    return facts


def _membership_required(refusal: Refusal) -> MembershipRequiredError:
    required, tier, expired = refusal.details
    reason = "none" if not tier else "expired" if expired else "insufficient"
    current = tier if tier and not expired else None
    return MembershipRequiredError(refusal.user_id, required, current, reason)


def _insufficient_credits(refusal: Refusal) -> InsufficientCreditsError:
    required, available, reserved = refusal.details
    return InsufficientCreditsError(
        refusal.user_id, _credits(required), _credits(available), _credits(reserved or "0")
    )


def _hold_finished(refusal: Refusal) -> HoldFinishedError:
    hold_id, state, _ = refusal.details
    if state == "expired":
        return HoldExpiredError(refusal.user_id, hold_id)
    return HoldFinishedError(refusal.user_id, hold_id, state)


def _capture_exceeds_hold(refusal: Refusal) -> CaptureExceedsHoldError:
    hold_id, required, reserved = refusal.details
    return CaptureExceedsHoldError(refusal.user_id, hold_id, _credits(required), _credits(reserved))


def _balance_limit(refusal: Refusal) -> BalanceLimitError:
    balance, amount, of = refusal.details
    return BalanceLimitError(refusal.user_id, _credits(balance), _credits(amount), of or "balance")


def _refund_exceeds_charge(refusal: Refusal) -> RefundExceedsChargeError:
    charged, refunded, _ = refusal.details
    return RefundExceedsChargeError(
        refusal.user_id,
        refusal.related,
        charged=_credits(charged),
        refunded=_credits(refunded),
        amount=_credits(refusal.subject),
    )


def _invalid_tier_change(refusal: Refusal) -> InvalidTierChangeError:
    tier, reason, _ = refusal.details
    return InvalidTierChangeError(
        refusal.user_id,
        tier or None,
        refusal.subject or None,
        TIER_REASONS.get(reason, reason),
    )


def _credits(micros: str) -> Decimal:
    return to_credits(int(micros))


REFUSALS: Final[Mapping[str, Callable[[Refusal], CreditsError]]] = {
    "idempotency_key_conflict": lambda r: IdempotencyKeyConflictError(r.key, r.details[0]),
    "user_not_found": lambda r: UserNotFoundError(r.user_id),
    "user_already_exists": lambda r: UserAlreadyExistsError(r.user_id),
    "undefined_action": lambda r: UndefinedActionError(r.subject),
    "membership_required": _membership_required,
    "insufficient_credits": _insufficient_credits,
    "hold_limit": lambda r: HoldLimitError(r.user_id, int(r.details[0])),
    "hold_not_found": lambda r: HoldNotFoundError(r.user_id, r.details[0]),
    "hold_finished": _hold_finished,
    "hold_expired": lambda r: HoldExpiredError(r.user_id, r.details[0]),
    "capture_exceeds_hold": _capture_exceeds_hold,
    "balance_limit": _balance_limit,
    "transaction_not_found": lambda r: TransactionNotFoundError(r.user_id, r.related),
    "refund_exceeds_charge": _refund_exceeds_charge,
    "undefined_tier": lambda r: UndefinedTierError(r.subject or None),
    "invalid_tier_change": _invalid_tier_change,
}
"""Every refusal but `unpriced` that reaches a caller or the audit log, in order of precedence."""
