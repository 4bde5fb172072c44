"""Every error the library raises: one tree, three families by whose fault it is.

The tree, kept true by a contract test:

    CreditsError
    ├── MisconfiguredError                the program is wrong: fix it and start again
    │   ├── ConfigurationError            CONFIGURATION_ERROR
    │   ├── UnsuitableServerError         UNSUITABLE_SERVER
    │   ├── IncompatibleFormatError       INCOMPATIBLE_FORMAT
    │   ├── SchemaMismatchError           SCHEMA_MISMATCH
    │   ├── ScriptFailedError             SCRIPT_FAILED
    │   └── EngineClosedError             ENGINE_CLOSED
    ├── RefusedError                      the request is wrong or not allowed: nothing was changed
    │   ├── InvalidArgumentError          INVALID_ARGUMENT
    │   │   ├── InvalidAmountError        INVALID_AMOUNT
    │   │   ├── InvalidMetadataError      INVALID_METADATA
    │   │   └── InvalidUsageError         INVALID_USAGE
    │   ├── UserNotFoundError             USER_NOT_FOUND
    │   ├── UserAlreadyExistsError        USER_ALREADY_EXISTS
    │   ├── IdempotencyKeyConflictError   IDEMPOTENCY_KEY_CONFLICT
    │   ├── RepeatedRequestError          REPEATED_REQUEST
    │   ├── RequestInProgressError        REQUEST_IN_PROGRESS
    │   ├── MembershipRequiredError       MEMBERSHIP_REQUIRED
    │   ├── UndefinedActionError          UNDEFINED_ACTION
    │   ├── MissingVariableError          MISSING_VARIABLE
    │   ├── FormulaEvaluationError        FORMULA_EVALUATION_ERROR
    │   ├── InsufficientCreditsError      INSUFFICIENT_CREDITS
    │   ├── HoldNotFoundError             HOLD_NOT_FOUND
    │   ├── HoldFinishedError             HOLD_FINISHED
    │   │   └── HoldExpiredError          HOLD_EXPIRED
    │   ├── CaptureExceedsHoldError       CAPTURE_EXCEEDS_HOLD
    │   ├── HoldSharedError               HOLD_SHARED
    │   ├── HoldLimitError                HOLD_LIMIT
    │   ├── BalanceLimitError             BALANCE_LIMIT
    │   ├── TransactionNotFoundError      TRANSACTION_NOT_FOUND
    │   ├── RefundExceedsChargeError      REFUND_EXCEEDS_CHARGE
    │   ├── UndefinedTierError            UNDEFINED_TIER
    │   └── InvalidTierChangeError        INVALID_TIER_CHANGE
    └── UnavailableError                  the world is not there: the only transient family
        ├── RedisUnavailableError         REDIS_UNAVAILABLE
        ├── DatabaseUnavailableError      DATABASE_UNAVAILABLE
        ├── PartitionFencedError          PARTITION_FENCED
        ├── BackPressureError             BACK_PRESSURE
        └── OutcomeUnknownError           OUTCOME_UNKNOWN

An error carries its facts as attributes; the message is for people, `code` is for machines. Codes
and attributes are those of the reference Credit SDK wherever it has them. The script names a
refusal by the code in lower case.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from credits_fast.exact import EXACT, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "BackPressureError",
    "BalanceLimitError",
    "CaptureExceedsHoldError",
    "ConfigurationError",
    "CreditsError",
    "DatabaseUnavailableError",
    "EngineClosedError",
    "FormulaEvaluationError",
    "HoldExpiredError",
    "HoldFinishedError",
    "HoldLimitError",
    "HoldNotFoundError",
    "HoldSharedError",
    "IdempotencyKeyConflictError",
    "IncompatibleFormatError",
    "InsufficientCreditsError",
    "InvalidAmountError",
    "InvalidArgumentError",
    "InvalidMetadataError",
    "InvalidTierChangeError",
    "InvalidUsageError",
    "MembershipRequiredError",
    "MisconfiguredError",
    "MissingVariableError",
    "OutcomeUnknownError",
    "PartitionFencedError",
    "Problem",
    "RedisUnavailableError",
    "RefundExceedsChargeError",
    "RefusedError",
    "RepeatedRequestError",
    "RequestInProgressError",
    "SchemaMismatchError",
    "ScriptFailedError",
    "TransactionNotFoundError",
    "UnavailableError",
    "UndefinedActionError",
    "UndefinedTierError",
    "UnsuitableServerError",
    "UserAlreadyExistsError",
    "UserNotFoundError",
]

_NOTHING: Final = Decimal(0)


class CreditsError(Exception):
    """The root: catch it to catch everything this library raises on purpose.

    Attributes:
        code: A stable name for machines, in capitals.
        transient: Whether the same call may succeed later without any change.
        message: One line for people.
    """

    code: ClassVar[str] = "CREDITS_ERROR"
    transient: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles keep the attributes, whatever the constructor asks for."""
        return _restore, (type(self), self.args, self.__dict__)


def _restore(
    kind: type[CreditsError], args: tuple[Any, ...], facts: dict[str, Any]
) -> CreditsError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


class MisconfiguredError(CreditsError):
    """The program or its surroundings are set up wrongly; trying again changes nothing."""

    code = "MISCONFIGURED"


class RefusedError(CreditsError):
    """The request was refused; no balance, ledger row or idempotency record was written."""

    code = "REFUSED"


class UnavailableError(CreditsError):
    """A server is not reachable or not ready; the same call may succeed later."""

    code = "UNAVAILABLE"
    transient = True


# --- the program -------------------------------------------------------------------------------


class Problem(NamedTuple):
    """One mistake in a configuration.

    Attributes:
        path: Where it is, such as `costs.chat.premium`; "" for the whole.
        message: What is wrong, for people.
        rule: The broken rule, for machines, such as `missing` or `formula.variable_name`.
    """

    path: str
    message: str
    rule: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigurationError(MisconfiguredError):
    """The configuration is wrong; `problems` lists every mistake that was found.

    Attributes:
        problems: Each mistake with its path.
    """

    code = "CONFIGURATION_ERROR"

    def __init__(self, *problems: Problem) -> None:
        self.problems: tuple[Problem, ...] = problems
        super().__init__("; ".join(map(str, problems)))


class UnsuitableServerError(MisconfiguredError):
    """The Redis or Valkey server could lose or evict credits, or is too old for the scripts."""

    code = "UNSUITABLE_SERVER"


class IncompatibleFormatError(MisconfiguredError):
    """Keys or journal entries were written in another format, which this version does not touch.

    Attributes:
        found: The format that was found.
        written_by: The library version that wrote it, "" where it is not recorded.
    """

    code = "INCOMPATIBLE_FORMAT"

    def __init__(self, what: str, *, found: str, expected: str, written_by: str) -> None:
        self.found = found
        self.written_by = written_by
        writer = f" by credits-fast {written_by}" if written_by else ""
        super().__init__(
            f"{what} was written in format {found}{writer}; this version reads format {expected}",
        )


class SchemaMismatchError(MisconfiguredError):
    """The database is not at this version's schema, or belongs to another set-up."""

    code = "SCHEMA_MISMATCH"


class ScriptFailedError(MisconfiguredError):
    """A script ended with an error of its own, perhaps after its first write; never repeated."""

    code = "SCRIPT_FAILED"


class EngineClosedError(MisconfiguredError):
    """The engine is not open: it is opened by `async with`, or by `start`."""

    code = "ENGINE_CLOSED"


# --- the request -------------------------------------------------------------------------------


class InvalidArgumentError(RefusedError):
    """An argument cannot be used at all.

    Attributes:
        argument: The name of the parameter.
    """

    code = "INVALID_ARGUMENT"

    def __init__(self, argument: str, problem: str) -> None:
        self.argument = argument
        super().__init__(f"{argument} {problem}")


class InvalidAmountError(InvalidArgumentError):
    """An amount is not an exact, finite number of credits within the limits."""

    code = "INVALID_AMOUNT"


class InvalidMetadataError(InvalidArgumentError):
    """Metadata is not plain JSON of bounded size and depth."""

    code = "INVALID_METADATA"


class InvalidUsageError(InvalidArgumentError):
    """What a model's provider reported about tokens has another shape, or contradicts itself."""

    code = "INVALID_USAGE"


class UserNotFoundError(RefusedError):
    """Neither Redis nor the ledger knows this user."""

    code = "USER_NOT_FOUND"

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        super().__init__(f"user {user_id!r} does not exist" if user_id else "the user id is empty")


class UserAlreadyExistsError(RefusedError):
    """A user with this id exists already."""

    code = "USER_ALREADY_EXISTS"

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        super().__init__(f"user {user_id!r} already exists")


class IdempotencyKeyConflictError(RefusedError):
    """The key was used before by this user for another operation or other parameters.

    Attributes:
        key: The idempotency key.
        existing_transaction: The id of the transaction that used it first.
    """

    code = "IDEMPOTENCY_KEY_CONFLICT"

    def __init__(self, key: str, existing_transaction: str) -> None:
        self.key = key
        self.existing_transaction = existing_transaction
        super().__init__(
            f"idempotency key {key!r} was already used with other parameters "
            f"by transaction {existing_transaction}",
        )


class RepeatedRequestError(RefusedError):
    """A request came again under its idempotency key, and its first answer is not at hand.

    It was charged the first time and not now. Raised by the web integration, and where two transactions of
    applications have the same key at once; not by the engine, which gives the first result again:
    answering a second time without a charge is the application's choice.

    Attributes:
        key: The idempotency key.
        transaction_id: The id of the transaction that was charged.
    """

    code = "REPEATED_REQUEST"

    def __init__(self, key: str, transaction_id: str) -> None:
        self.key = key
        self.transaction_id = transaction_id
        super().__init__(
            f"the request with idempotency key {key!r} was charged before by transaction "
            f"{transaction_id}, and its answer is not at hand",
        )


class RequestInProgressError(RefusedError):
    """A request came again under its idempotency key while the first one is still being served.

    Credits are held for the first one, and the second holds none. Raised by the web integration, not by
    the engine, whose blocks of the same key share a hold.

    Attributes:
        key: The idempotency key.
        hold_id: The id of the first request's hold.
    """

    code = "REQUEST_IN_PROGRESS"

    def __init__(self, key: str, hold_id: str) -> None:
        self.key = key
        self.hold_id = hold_id
        super().__init__(
            f"the request with idempotency key {key!r} is being served under hold {hold_id}"
        )


class MembershipRequiredError(RefusedError):
    """The action asks for a tier the user does not have at this moment.

    Attributes:
        required: The tier the action asks for.
        current: The user's tier, None where there is none or it has expired.
        reason: `none`, `expired`, `insufficient` or `current_tier_undefined`.
    """

    code = "MEMBERSHIP_REQUIRED"

    def __init__(self, user_id: str, required: str, current: str | None, reason: str) -> None:
        self.user_id = user_id
        self.required = required
        self.current = current
        self.reason = reason
        super().__init__(
            f"user {user_id!r} needs tier {required!r}; current tier: {current or 'none'} "
            f"({reason.replace('_', ' ')})",
        )


class UndefinedActionError(RefusedError):
    """The configuration has no price for this action."""

    code = "UNDEFINED_ACTION"

    def __init__(self, action: str) -> None:
        self.action = action
        super().__init__(f"action {action!r} has no price")


class MissingVariableError(RefusedError):
    """A price formula names a variable the call did not give.

    Attributes:
        formula: The text of the formula.
        missing_variable: The first missing name, in order of appearance.
        provided_variables: The names that were given.
    """

    code = "MISSING_VARIABLE"

    def __init__(self, formula: str, missing_variable: str, provided: Sequence[str]) -> None:
        self.formula = formula
        self.missing_variable = missing_variable
        self.provided_variables: tuple[str, ...] = tuple(provided)
        super().__init__(
            f"formula {formula!r} needs variable {missing_variable!r}; "
            f"given: {', '.join(provided) or 'none'}",
        )


_VARIABLES_SHOWN_MAX: Final = 2_048
"""Characters of variables in a message: what a price may be recorded with. Messages are audited."""


def _shown(variables: Mapping[str, Any]) -> str:
    """Variables for people: whatever was given, so in part where it is long."""
    try:
        shown = json.dumps(variables, default=str, separators=(",", ":"))
    except (ValueError, RecursionError):  # more digits than Python writes, or no end
        return "variables that cannot be shown"
    return shown if len(shown) <= _VARIABLES_SHOWN_MAX else f"{shown[:_VARIABLES_SHOWN_MAX]}…"


class FormulaEvaluationError(RefusedError):
    """A price formula has no finite number as its value for these variables.

    Attributes:
        formula: The text of the formula.
        variables: The values that were given.
        cause: What went wrong, as text.
        cause_kind: `not_finite`, `nan`, `invalid_variable` or `not_a_number_type`.
    """

    code = "FORMULA_EVALUATION_ERROR"

    def __init__(
        self,
        formula: str,
        variables: Mapping[str, Any],
        cause: str,
        cause_kind: str,
    ) -> None:
        self.formula = formula
        self.variables = dict(variables)
        self.cause = cause
        self.cause_kind = cause_kind
        shown = _shown(self.variables)
        super().__init__(f"formula {formula!r} cannot be evaluated with {shown}: {cause}")


class InsufficientCreditsError(RefusedError):
    """The available credits do not cover the cost.

    Attributes:
        required: The cost, in credits.
        available: Balance less what is reserved, in credits.
        reserved: What holds of other requests keep at this moment, in credits.
    """

    code = "INSUFFICIENT_CREDITS"

    def __init__(
        self, user_id: str, required: Decimal, available: Decimal, reserved: Decimal = _NOTHING
    ) -> None:
        self.user_id = user_id
        self.required = required
        self.available = available
        self.reserved = reserved
        held = f", {plain(reserved)} more are held by other requests" if reserved else ""
        super().__init__(
            f"user {user_id!r} has {plain(available)} credits available, "
            f"{plain(required)} are required{held}",
        )

    @property
    def is_held(self) -> bool:
        """Whether the credits are there, and only held by other requests: later it may succeed."""
        return self.required <= EXACT.add(self.available, self.reserved)


class HoldNotFoundError(RefusedError):
    """The user has no hold under this id.

    Attributes:
        hold_id: The id that was given.
    """

    code = "HOLD_NOT_FOUND"

    def __init__(self, user_id: str, hold_id: str) -> None:
        self.user_id = user_id
        self.hold_id = hold_id
        super().__init__(f"user {user_id!r} has no hold {hold_id!r}")


class HoldFinishedError(RefusedError):
    """The hold was finished before; a hold is finished once.

    Attributes:
        hold_id: The hold.
        state: What became of it: `captured`, `released` or `expired`.
    """

    code = "HOLD_FINISHED"

    def __init__(self, user_id: str, hold_id: str, state: str) -> None:
        self.user_id = user_id
        self.hold_id = hold_id
        self.state = state
        super().__init__(f"hold {hold_id!r} of user {user_id!r} is {state}")


class HoldExpiredError(HoldFinishedError):
    """The hold's time was over before it was captured or released; its credits are available again."""

    code = "HOLD_EXPIRED"

    def __init__(self, user_id: str, hold_id: str) -> None:
        super().__init__(user_id, hold_id, "expired")


class CaptureExceedsHoldError(RefusedError):
    """The price is above what the hold keeps, and such a capture is to be refused.

    Attributes:
        hold_id: The hold; it stays open.
        required: The price, in credits.
        reserved: What the hold keeps, in credits.
    """

    code = "CAPTURE_EXCEEDS_HOLD"

    def __init__(self, user_id: str, hold_id: str, required: Decimal, reserved: Decimal) -> None:
        self.user_id = user_id
        self.hold_id = hold_id
        self.required = required
        self.reserved = reserved
        super().__init__(
            f"hold {hold_id!r} of user {user_id!r} keeps {plain(reserved)} credits, "
            f"{plain(required)} are required",
        )


class HoldSharedError(RefusedError):
    """The hold is another block's, under the same key: only the block that made it may consume it.

    Attributes:
        hold_id: The hold.
    """

    code = "HOLD_SHARED"

    def __init__(self, user_id: str, hold_id: str) -> None:
        self.user_id = user_id
        self.hold_id = hold_id
        super().__init__(
            f"hold {hold_id!r} of user {user_id!r} was made by another block with the same key, "
            "which alone may consume it",
        )


class HoldLimitError(RefusedError):
    """The user has as many open holds as one may have.

    Attributes:
        open_max: How many that is.
    """

    code = "HOLD_LIMIT"

    def __init__(self, user_id: str, open_max: int) -> None:
        self.user_id = user_id
        self.open_max = open_max
        super().__init__(f"user {user_id!r} has {open_max} open holds, more are not allowed")


class BalanceLimitError(RefusedError):
    """The balance, or another sum, would pass the largest one the library keeps exactly.

    Attributes:
        of: Which sum: `balance`; what was `refunded` of one charge; what was `captured` or `reserved` of
            one hold, in all.
        balance: The sum before the operation, in credits.
        amount: What should have been added, in credits.
    """

    code = "BALANCE_LIMIT"

    def __init__(
        self, user_id: str, balance: Decimal, amount: Decimal, of: str = "balance"
    ) -> None:
        self.user_id = user_id
        self.balance = balance
        self.amount = amount
        self.of = of
        what = "has" if of == "balance" else f"has {of} in all"
        super().__init__(
            f"user {user_id!r} {what} {plain(balance)} credits; "
            f"{plain(amount)} more would pass the limit",
        )


class TransactionNotFoundError(RefusedError):
    """The ledger has no charge of this user under this transaction id.

    Attributes:
        transaction_id: The id that was given.
    """

    code = "TRANSACTION_NOT_FOUND"

    def __init__(self, user_id: str, transaction_id: str) -> None:
        self.user_id = user_id
        self.transaction_id = transaction_id
        super().__init__(f"user {user_id!r} has no charge {transaction_id!r}")


class RefundExceedsChargeError(RefusedError):
    """The refunds of a charge would pass what was charged.

    Attributes:
        transaction_id: The charge.
        charged: What it took, in credits.
        refunded: What was given back before, in credits.
        amount: What should have been given back now, in credits.
    """

    code = "REFUND_EXCEEDS_CHARGE"

    def __init__(
        self,
        user_id: str,
        transaction_id: str,
        *,
        charged: Decimal,
        refunded: Decimal,
        amount: Decimal,
    ) -> None:
        self.user_id = user_id
        self.transaction_id = transaction_id
        self.charged = charged
        self.refunded = refunded
        self.amount = amount
        super().__init__(
            f"charge {transaction_id!r} took {plain(charged)} credits and {plain(refunded)} are "
            f"refunded; {plain(amount)} more would pass it",
        )


class UndefinedTierError(RefusedError):
    """The configuration does not define this tier."""

    code = "UNDEFINED_TIER"

    def __init__(self, tier: str | None) -> None:
        self.tier = tier
        super().__init__(f"tier {tier!r} is not defined")


class InvalidTierChangeError(RefusedError):
    """The change does not go in the direction of the operation.

    Attributes:
        current_tier: The user's tier as it counts now, None where there is none.
        target_tier: The tier that was asked for.
        reason: Why it is refused, as text.
    """

    code = "INVALID_TIER_CHANGE"

    def __init__(
        self,
        user_id: str,
        current_tier: str | None,
        target_tier: str | None,
        reason: str,
    ) -> None:
        self.user_id = user_id
        self.current_tier = current_tier
        self.target_tier = target_tier
        self.reason = reason
        change = f"to {target_tier}" if target_tier else "by a renewal"
        super().__init__(
            f"user {user_id!r} cannot change from tier {current_tier or 'none'} {change}: {reason}",
        )


# --- the world ---------------------------------------------------------------------------------


class RedisUnavailableError(UnavailableError):
    """Redis did not answer, or answered that it cannot serve writes now."""

    code = "REDIS_UNAVAILABLE"


class DatabaseUnavailableError(UnavailableError):
    """The SQL database did not answer."""

    code = "DATABASE_UNAVAILABLE"


class PartitionFencedError(UnavailableError):
    """The partition is closed until its journal has been compared with the ledger.

    Attributes:
        partition: The number of the partition.
    """

    code = "PARTITION_FENCED"

    def __init__(self, partition: int, why: str) -> None:
        self.partition = partition
        super().__init__(f"partition {partition} is closed: {why}")


class BackPressureError(UnavailableError):
    """There is no room for charges, reservations and grants until the worker has carried some.

    Nothing was changed.

    Attributes:
        partition: The number of the partition.
        reason: `journal` where its journal is as long as it may be, `memory` where the server's memory
            is nearly used up.
    """

    code = "BACK_PRESSURE"

    def __init__(self, partition: int, reason: str) -> None:
        self.partition = partition
        self.reason = reason
        why = "journal is full" if reason == "journal" else "server has too little memory left"
        super().__init__(f"partition {partition} takes no charges and grants now: its {why}")


class OutcomeUnknownError(UnavailableError):
    """The call was sent and no answer came back: it may or may not have taken effect.

    `CreditsEngine.resolve` settles the question; so does the same call with the same idempotency key.

    Attributes:
        operation_id: The id under which the operation is, if it was executed, in the ledger.
        pending: What `CreditsEngine.resolve` goes on from; it can be pickled, and nobody else reads it.
    """

    code = "OUTCOME_UNKNOWN"

    def __init__(self, operation_id: str, why: str, pending: object = None) -> None:
        self.operation_id = operation_id
        self.pending = pending
        super().__init__(f"the outcome of operation {operation_id} is unknown: {why}")
