"""What a web application says of credits: the table of problems, headers, and how keys are read."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from credits_fast import ChargeResult, CreditsError, InvalidArgumentError, ReserveResult, errors
from credits_fast.arguments import identifier
from credits_fast.web.headers import charge_headers, hold_headers
from credits_fast.web.idempotency import (
    KEY_CHARACTERS_MAX,
    read_key,
    request_fingerprint,
    stored_key,
)
from credits_fast.web.problems import is_our_fault, problem_response, status_of
from credits_fast.web.settling import End, is_charged
from tests.contracts.test_public import error_classes

ROOT = Path(__file__).parents[2]
ONE = Decimal("1.500000")

STATUSES = {
    "InvalidArgumentError": 400,
    "InvalidAmountError": 400,
    "InvalidMetadataError": 400,
    "InsufficientCreditsError": 402,
    "MembershipRequiredError": 403,
    "UserNotFoundError": 404,
    "TransactionNotFoundError": 404,
    "UserAlreadyExistsError": 409,
    "RepeatedRequestError": 409,
    "RequestInProgressError": 409,
    "InvalidTierChangeError": 409,
    "RefundExceedsChargeError": 409,
    "BalanceLimitError": 409,
    "IdempotencyKeyConflictError": 422,
    "UndefinedActionError": 422,
    "UndefinedTierError": 422,
    "MissingVariableError": 422,
    "FormulaEvaluationError": 422,
    "HoldNotFoundError": 404,
    "HoldFinishedError": 409,
    "HoldExpiredError": 409,
    "CaptureExceedsHoldError": 409,
    "HoldSharedError": 409,
    "HoldLimitError": 429,
    "RefusedError": 422,
    "InvalidUsageError": 500,
    "MisconfiguredError": 500,
    "ConfigurationError": 500,
    "UnsuitableServerError": 500,
    "IncompatibleFormatError": 500,
    "SchemaMismatchError": 500,
    "ScriptFailedError": 500,
    "EngineClosedError": 500,
    "CreditsError": 500,
    "UnavailableError": 503,
    "RedisUnavailableError": 503,
    "DatabaseUnavailableError": 503,
    "BackPressureError": 503,
    "PartitionFencedError": 503,
    "OutcomeUnknownError": 503,
}


def test_every_error_of_the_library_has_its_status() -> None:
    # A new error appears here, so that somebody decides what clients are told of it.
    assert STATUSES == {one.__name__: status_of(one) for one in error_classes()}


def test_what_waiting_helps_says_how_long_and_nothing_else_does() -> None:
    for error in EXAMPLES:
        assert error.transient == ("Retry-After" in problem_response(error).headers)
        assert is_our_fault(error) == (status_of(error) >= 500)


EXAMPLES: list[CreditsError] = [
    errors.InsufficientCreditsError("ada", Decimal(13), ONE),
    errors.MembershipRequiredError("ada", "pro", None, "expired"),
    errors.UserNotFoundError("ada"),
    errors.TransactionNotFoundError("ada", "t-1"),
    errors.HoldNotFoundError("ada", "h-1"),
    errors.HoldFinishedError("ada", "h-1", "released"),
    errors.HoldExpiredError("ada", "h-1"),
    errors.CaptureExceedsHoldError("ada", "h-1", Decimal(13), ONE),
    errors.HoldSharedError("ada", "h-1"),
    errors.HoldLimitError("ada", 1_000),
    errors.UserAlreadyExistsError("ada"),
    errors.RepeatedRequestError("k", "t-1"),
    errors.InvalidTierChangeError("ada", None, "pro", "it is not higher"),
    errors.RefundExceedsChargeError("ada", "t-1", charged=ONE, refunded=ONE, amount=ONE),
    errors.BalanceLimitError("ada", ONE, ONE),
    errors.IdempotencyKeyConflictError("http:k", "t-1"),
    errors.InvalidAmountError("amount", "is wrong"),
    errors.InvalidUsageError("usage", "is wrong"),
    errors.UndefinedActionError("secret-action"),
    errors.UndefinedTierError("gold"),
    errors.MissingVariableError("{secret} * 7", "secret", ["other"]),
    errors.FormulaEvaluationError("{secret} * 7", {"secret": 1}, "cause", "nan"),
    errors.ConfigurationError(errors.Problem("secret", "is wrong")),
    errors.RedisUnavailableError("secret-host:6379 does not answer"),
    errors.BackPressureError(3, "memory"),
    errors.PartitionFencedError(3, "secret"),
    errors.OutcomeUnknownError("op", "secret-host hung up"),
    errors.RequestInProgressError("k", "h-1"),
]


def document(error: CreditsError) -> dict[str, object]:
    response = problem_response(error)
    assert "application/problem+json" == response.headers["Content-Type"]
    assert "no-store" == response.headers["Cache-Control"]
    decoded: dict[str, object] = json.loads(response.body)
    assert response.status == decoded["status"]
    return decoded


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_a_document_has_a_type_a_title_and_the_code(error: CreditsError) -> None:
    told = document(error)

    assert str(told["type"]).startswith("urn:credits-fast:")
    assert told["title"]
    assert error.code == told["code"]
    assert "{" not in str(told.get("detail", ""))


def test_a_document_tells_the_facts_of_a_refusal_and_amounts_as_text() -> None:
    assert {
        "type": "https://example.com/problems/insufficient-credits",
        "title": "Not enough credits",
        "status": 402,
        "code": "INSUFFICIENT_CREDITS",
        "detail": "13 credits are required, 1.500000 are available.",
        "required": "13",
        "available": "1.500000",
        "reserved": "0",
    } == json.loads(problem_response(EXAMPLES[0], types="https://example.com/problems/").body)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_formulas_addresses_and_names_of_users_stay_inside(error: CreditsError) -> None:
    if isinstance(error, errors.UndefinedActionError | errors.MissingVariableError):
        return  # The names a request is made of are told.
    told = str(document(error))

    assert "secret" not in told
    assert "ada" not in told


def test_a_price_formula_is_not_told() -> None:
    assert "7" not in str(document(EXAMPLES[14]))


def test_what_cannot_be_utf8_becomes_a_document_all_the_same() -> None:
    assert "\udcff" == document(errors.UndefinedTierError("\udcff"))["tier"]


# --- headers -----------------------------------------------------------------------------------


def test_a_charge_says_what_it_took_and_what_is_left() -> None:
    charge = ChargeResult("t-1", ONE, Decimal(10), Decimal("8.500000"))

    assert {
        "X-Credits-Charged": "1.500000",
        "X-Credits-Remaining": "8.500000",
        "X-Credits-Transaction": "t-1",
    } == charge_headers(charge)


def test_a_repeated_charge_does_not_tell_an_old_balance() -> None:
    charge = ChargeResult("t-1", ONE, Decimal(10), Decimal("8.500000"), replayed=True)

    assert {"My-Charged": "1.500000", "My-Transaction": "t-1", "My-Replayed": "true"} == (
        charge_headers(charge, prefix="My-")
    )


def test_a_reservation_says_what_is_held_and_what_others_may_take() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    reservation = ReserveResult("h-1", ONE, at, Decimal(10), Decimal("2.500000"))

    assert {
        "My-Reservation": "h-1",
        "My-Reserved": "1.500000",
        "My-Remaining": "7.500000",
    } == hold_headers(reservation, prefix="My-")


# --- how a request ends -------------------------------------------------------------------------

ENDS: list[tuple[End, int, bool, bool]] = [
    # how, status: charged where the use was said, and where it was not
    ("whole", 200, True, True),
    ("whole", 304, True, True),
    ("whole", 400, True, False),
    ("whole", 499, True, False),
    ("whole", 500, False, False),
    ("cut_off", 0, True, False),
    ("cut_off", 200, True, False),
    ("cut_off", 503, False, False),
    ("failed", 0, False, False),
    ("failed", 200, False, False),
]


@pytest.mark.parametrize(("end", "status", "measured", "silent"), ENDS)
def test_what_is_charged_follows_from_how_a_request_ends(
    end: End,
    status: int,
    measured: bool,  # noqa: FBT001  # a column of the table
    silent: bool,  # noqa: FBT001  # a column of the table
) -> None:
    assert (measured, silent) == (
        is_charged(end, status, is_measured=True),
        is_charged(end, status, is_measured=False),
    )


# --- keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ('"8e03978e-40d5"', "8e03978e-40d5"),
        ("8e03978e-40d5", "8e03978e-40d5"),
        ('  "a key"\t', "a key"),
        (r'"a \"quoted\" \\ key"', r'a "quoted" \ key'),
        ('"a";expires=1', "a"),
        ("order:17/b+c=", "order:17/b+c="),
        ("k" * KEY_CHARACTERS_MAX, "k" * KEY_CHARACTERS_MAX),
    ],
)
def test_a_key_is_read_quoted_or_bare(value: str, key: str) -> None:
    assert key == read_key([value])


@pytest.mark.parametrize(
    "values",
    [
        [""],
        ['""'],
        ["a b"],
        ["a,b"],
        ['"a", "b"'],
        ['"a'],
        ['a"'],
        ['"a"b'],
        [r'"\a"'],
        ['"\u00e9"'],
        ["\u00e9"],
        ["a\x00"],
        ['"a\n"'],
        ["k" * (KEY_CHARACTERS_MAX + 1)],
        ["a", "a"],
    ],
)
def test_a_malformed_key_is_refused(values: list[str]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^Idempotency-Key"):
        read_key(values)


def test_a_key_may_be_missing_where_it_is_not_required() -> None:
    assert read_key([]) is None
    with pytest.raises(InvalidArgumentError, match="is required"):
        read_key([], required=True)


def test_the_longest_key_is_one_the_engine_takes() -> None:
    longest = stored_key("k" * KEY_CHARACTERS_MAX)

    assert longest.encode() == identifier("idempotency_key", longest)


def test_a_fingerprint_stands_for_method_target_and_body() -> None:
    requests: list[tuple[str, str, list[bytes]]] = [
        ("POST", "/chat", [b"{}"]),
        ("PUT", "/chat", [b"{}"]),
        ("POST", "/chat?a=1", [b"{}"]),
        ("POST", "/chat", [b"{ }"]),
        ("POST", "/chat", [b"{", b"}"]),
        ("POST", "/cha", [b"t", b"{}"]),
        ("POST", "/chat", []),
    ]
    fingerprints = [request_fingerprint(*one) for one in requests]

    assert len(requests) == len({*fingerprints})
    assert fingerprints[0] == request_fingerprint("post", "/chat", [b"{}"])


def test_the_pages_table_of_statuses_is_the_real_one() -> None:
    page = (ROOT / "docs" / "web.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d{3}) \| (.*) \|$", page, flags=re.MULTILINE)
    told = {name: int(status) for status, names in rows for name in re.findall(r"`(\w+)`", names)}

    assert told == {name: status for name, status in STATUSES.items() if name in told}
    families = ("MisconfiguredError", "UnavailableError", "RefusedError")
    parents = tuple(getattr(errors, name) for name in families)
    for one in error_classes():
        if one is not CreditsError and one.__name__ not in told:
            assert any(
                STATUSES[one.__name__] == told[p.__name__] and issubclass(one, p) for p in parents
            )
