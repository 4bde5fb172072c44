"""What a client is told of an error: a status and a problem document (RFC 9457). Pure.

One table says it for every error of the library; a class without a row answers like its parent. A
document holds what its reader may know: of a user's request the facts, of the program's and the
servers' failures no more than their code. A price formula or an address stays inside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from http import HTTPStatus
from typing import Any, Final

from credits_fast.errors import (
    BackPressureError,
    BalanceLimitError,
    CaptureExceedsHoldError,
    CreditsError,
    FormulaEvaluationError,
    HoldFinishedError,
    HoldLimitError,
    HoldNotFoundError,
    HoldSharedError,
    IdempotencyKeyConflictError,
    InsufficientCreditsError,
    InvalidArgumentError,
    InvalidTierChangeError,
    InvalidUsageError,
    MembershipRequiredError,
    MisconfiguredError,
    MissingVariableError,
    OutcomeUnknownError,
    PartitionFencedError,
    RefundExceedsChargeError,
    RefusedError,
    RepeatedRequestError,
    RequestInProgressError,
    TransactionNotFoundError,
    UnavailableError,
    UndefinedActionError,
    UndefinedTierError,
    UserAlreadyExistsError,
    UserNotFoundError,
)
from credits_fast.web.headers import credits_text

__all__ = [
    "MEDIA_TYPE",
    "TYPES",
    "ProblemResponse",
    "is_our_fault",
    "problem_response",
    "status_of",
]

MEDIA_TYPE: Final = "application/problem+json"
"""What a problem document is, as `Content-Type`."""
TYPES: Final = "urn:credits-fast:"
"""What the `type` of a document begins with, unless the application has pages of its own for them."""


@dataclass(frozen=True, slots=True)
class ProblemResponse:
    """What to send.

    Attributes:
        status: The status code.
        headers: The headers, `Content-Type` among them.
        body: The document, as UTF-8.
    """

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Row:
    """What one kind of error becomes.

    Attributes:
        status: The status code.
        slug: The end of `type`.
        title: The same for every error of the kind.
        detail: Of this error, from its facts; "" for nothing.
        facts: Attributes that become members of the document.
        retry_after_s: Seconds after which the same request may succeed, None where waiting is no help.
    """

    status: int
    slug: str
    title: str
    detail: str = ""
    facts: tuple[str, ...] = ()
    retry_after_s: int | None = None


_TABLE: Final[dict[type[CreditsError], _Row]] = {
    InsufficientCreditsError: _Row(
        402,
        "insufficient-credits",
        "Not enough credits",
        "{required} credits are required, {available} are available.",
        ("required", "available", "reserved"),
    ),
    MembershipRequiredError: _Row(
        403,
        "membership-required",
        "A higher membership is required",
        "Tier {required} is required.",
        ("required", "current", "reason"),
    ),
    UserNotFoundError: _Row(404, "user-not-found", "Unknown user"),
    TransactionNotFoundError: _Row(
        404,
        "transaction-not-found",
        "Unknown transaction",
        "There is no charge {transaction_id}.",
        ("transaction_id",),
    ),
    HoldNotFoundError: _Row(404, "hold-not-found", "Unknown hold", "", ("hold_id",)),
    HoldFinishedError: _Row(
        409,
        "hold-finished",
        "The hold is finished",
        "It is {state}, and stays so.",
        ("hold_id", "state"),
    ),
    CaptureExceedsHoldError: _Row(
        409,
        "capture-exceeds-hold",
        "More than is held",
        "{required} credits are required, {reserved} are held.",
        ("hold_id", "required", "reserved"),
    ),
    HoldSharedError: _Row(
        409,
        "hold-shared",
        "The request is under way",
        "Another request with the same idempotency key consumes the hold.",
        ("hold_id",),
    ),
    HoldLimitError: _Row(
        429,
        "hold-limit",
        "Too many requests are under way",
        "{open_max} at once are allowed.",
        ("open_max",),
    ),
    UserAlreadyExistsError: _Row(409, "user-already-exists", "The user exists already"),
    RepeatedRequestError: _Row(
        409,
        "repeated-request",
        "The request was made before",
        "It was charged under this idempotency key before, and not again; its answer is not at hand.",
        ("transaction_id",),
    ),
    RequestInProgressError: _Row(
        409,
        "request-in-progress",
        "The request is being served",
        "The first request under this idempotency key has not come to its end.",
        ("hold_id",),
    ),
    InvalidTierChangeError: _Row(
        409,
        "invalid-tier-change",
        "The membership cannot change like that",
        "From tier {current_tier} to tier {target_tier}: {reason}.",
        ("current_tier", "target_tier"),
    ),
    RefundExceedsChargeError: _Row(
        409,
        "refund-exceeds-charge",
        "More than was charged",
        "{charged} credits were charged, {refunded} are refunded, {amount} more are too many.",
        ("transaction_id", "charged", "refunded", "amount"),
    ),
    BalanceLimitError: _Row(409, "balance-limit", "More credits than an account can hold"),
    IdempotencyKeyConflictError: _Row(
        422,
        "idempotency-key-conflict",
        "The idempotency key stands for another request",
        "A key can be used again for the same request only.",
        ("existing_transaction",),
    ),
    InvalidArgumentError: _Row(
        400, "invalid-argument", "The request is malformed", "{message}.", ("argument",)
    ),
    # What the model's provider reported is no fault of the client's.
    InvalidUsageError: _Row(500, "internal", "The server is set up wrongly"),
    UndefinedActionError: _Row(422, "undefined-action", "The action has no price", "", ("action",)),
    UndefinedTierError: _Row(422, "undefined-tier", "Unknown tier", "", ("tier",)),
    MissingVariableError: _Row(
        422,
        "missing-variable",
        "The price cannot be worked out",
        "A value for {missing_variable} is missing.",
        ("missing_variable",),
    ),
    FormulaEvaluationError: _Row(
        422, "formula-evaluation", "The price cannot be worked out from these values"
    ),
    OutcomeUnknownError: _Row(
        503,
        "outcome-unknown",
        "It is not known whether the request was charged",
        "The same request with the same idempotency key settles it.",
        retry_after_s=1,
    ),
    PartitionFencedError: _Row(503, "unavailable", "Credits are not available", retry_after_s=5),
    BackPressureError: _Row(503, "unavailable", "Credits are not available", retry_after_s=5),
    # Families, for what has no row of its own.
    RefusedError: _Row(422, "refused", "The request was refused"),
    UnavailableError: _Row(503, "unavailable", "Credits are not available", retry_after_s=1),
    MisconfiguredError: _Row(500, "internal", "The server is set up wrongly"),
    CreditsError: _Row(500, "internal", "The server is set up wrongly"),
}


def status_of(error: CreditsError | type[CreditsError]) -> int:
    """The status code of an error, or of a kind of errors."""
    return _row(error if isinstance(error, type) else type(error)).status


def problem_response(error: CreditsError, *, types: str = TYPES) -> ProblemResponse:
    """What to send to a client whose request ended with this error.

    Args:
        error: The error.
        types: What the documents' `type` begins with, such as `https://example.com/problems/`.

    Example:
        >>> from credits_fast import InsufficientCreditsError
        >>> response = problem_response(InsufficientCreditsError("ada", Decimal(13), Decimal("2.5")))
        >>> print(response.status, response.body.decode())
        402 {"type":"urn:credits-fast:insufficient-credits","title":"Not enough credits","status":402,\
"code":"INSUFFICIENT_CREDITS","detail":"13 credits are required, 2.5 are available.",\
"required":"13","available":"2.5","reserved":"0"}
    """
    row = _row(type(error))
    facts = {name: _shown(getattr(error, name)) for name in row.facts}
    document: dict[str, object] = {
        "type": types + row.slug,
        "title": row.title,
        "status": row.status,
        "code": error.code,
    }
    if row.detail:
        document["detail"] = row.detail.format_map(
            {name: "none" if fact is None else fact for name, fact in facts.items()}
            | {"message": error.message, "reason": getattr(error, "reason", "")}
        )
    headers = {"Content-Type": MEDIA_TYPE, "Cache-Control": "no-store"}
    if row.retry_after_s is not None:
        headers["Retry-After"] = str(row.retry_after_s)
    text = json.dumps(document | facts, ensure_ascii=False, separators=(",", ":"))
    return ProblemResponse(row.status, headers, text.encode(errors="backslashreplace"))


def is_our_fault(error: CreditsError) -> bool:
    """Whether the server is to blame, so that somebody there has to see it."""
    return status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR


def _row(kind: type[CreditsError]) -> _Row:
    return next(_TABLE[one] for one in kind.__mro__ if one in _TABLE)


def _shown(fact: Any) -> str | None:
    """A fact in a document: amounts with all their digits, because JSON numbers lose some."""
    if isinstance(fact, Decimal):
        return credits_text(fact)
    return fact if fact is None else str(fact)
