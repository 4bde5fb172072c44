"""Amounts: exact outside, whole inside, and nothing else gets in."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from credits_fast import (
    ExtendResult,
    InsufficientCreditsError,
    InvalidAmountError,
    ReserveResult,
    User,
)
from credits_fast.amounts import json_number, to_credits, to_micros


@pytest.mark.parametrize(
    ("amount", "micros"),
    [
        (0, 0),
        (1, 1_000_000),
        ("13.5", 13_500_000),
        (".5", 500_000),
        ("1.", 1_000_000),
        ("1.0000000", 1_000_000),
        (Decimal("0.000001"), 1),
        (Decimal("1E+3"), 1_000_000_000),
        (9_000_000_000, 9_000_000_000_000_000),
        (Decimal("0E-30"), 0),
    ],
)
def test_an_exact_amount_becomes_whole_micro_credits(amount: Any, micros: int) -> None:
    assert micros == to_micros(amount)


@pytest.mark.parametrize(
    "amount",
    [
        -1,
        "-0.000001",
        1.5,
        0.1,
        True,
        None,
        [],
        "0.0000001",
        Decimal("1.0000001"),
        Decimal(1) / Decimal(3),
        "nan",
        "inf",
        "1e3",
        "",
        " 1",
        "٣",
        "1_000",
        "9" * 41,
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("Infinity"),
        Decimal("1E+1000000"),
        Decimal("1E-1000000"),
        10**5_000,
        9_000_000_001,
        "9000000000.000001",
    ],
    ids=lambda amount: type(amount).__name__,
)
def test_anything_else_is_refused(amount: Any) -> None:
    with pytest.raises(InvalidAmountError, match=r"^amount ") as refused:
        to_micros(amount)

    assert refused.value.argument == "amount"


def test_zero_is_refused_where_a_positive_amount_is_due() -> None:
    with pytest.raises(InvalidAmountError, match="must be positive"):
        to_micros(0, minimum=1)


def test_credits_have_six_places_whatever_the_applications_decimal_context() -> None:
    import decimal

    with decimal.localcontext(decimal.Context(prec=2)):
        shown = to_credits(123_456_789_123_456)

    assert "123456789.123456" == str(shown)


def test_what_is_available_is_exact_whatever_the_applications_decimal_context() -> None:
    import decimal

    held, whole, now = (
        Decimal("0.000001"),
        Decimal("1234567.890123"),
        datetime(2026, 1, 1, tzinfo=UTC),
    )
    told = (
        User("ada", whole, held, None, None, 1),
        ReserveResult("h", held, now, whole, held),
        ExtendResult("h", held, held, now, whole, held),
    )
    refused = InsufficientCreditsError("ada", whole, Decimal("1234567.89"), Decimal("0.000122"))

    with decimal.localcontext(decimal.Context(prec=2)):
        assert {Decimal("1234567.890122")} == {one.available for one in told}
        assert not refused.is_held


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "0"), (-500_000, "-0.5"), (13_460_000, "13.46"), (10_000_000, "10"), (1, "0.000001")],
)
def test_a_json_number_is_short_and_exact(micros: int, text: str) -> None:
    assert text == json_number(micros)


def test_nothing_is_nothing_however_it_is_written() -> None:
    assert 0 == to_micros(Decimal("0E+900"))
