"""Named tuples that are made at once: nothing counts their fields but these tests."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from credits_fast.calls.operations import Operations
from credits_fast.calls.pending import Pending, under_way
from credits_fast.config import CreditsConfig
from credits_fast.named_tuples import new
from credits_fast.prices.pricing import PriceList
from credits_fast.protocol import hold_wire, wire
from credits_fast.protocol.keys import Partitions
from credits_fast.types import CaptureResult, ChargeResult, ReserveResult

CONFIG = CreditsConfig.parse({"costs": {"chat": {"default": 1}}, "membership": {"tiers": {}}})
OPERATION = Operations(CONFIG, Partitions("credits", 16)).new("charge", "ada", "chat", "k", None)
QUOTE = PriceList(CONFIG).quote("chat")
CALL = wire.charge_call(OPERATION, QUOTE)
NAME = OPERATION.operation_id
ONE, NINE = Decimal("1.000000"), Decimal("9.000000")


@pytest.mark.parametrize(
    "made",
    [OPERATION, CALL, under_way(("charge", OPERATION, CALL, wire.charged, (QUOTE,), "", b""))],
)
def test_it_has_every_field(made: Any) -> None:
    assert [*made._fields] == [*made._asdict()]
    assert made == type(made)(**made._asdict())


def test_it_is_what_the_type_makes() -> None:
    made = new(ChargeResult, ("t1", ONE, NINE, ONE, False, "memory"))

    assert ChargeResult("t1", ONE, NINE, ONE) == made
    assert ChargeResult is type(made)
    assert Pending is type(under_way(("charge", OPERATION, CALL, wire.charged, (), "", b"")))


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (
            wire.charged(b"ok\x001000000\x008000000", OPERATION, QUOTE),
            ChargeResult(NAME, ONE, NINE, Decimal("8.000000")),
        ),
        (
            wire.charged(b"replayed\x00t0\x001000000\x008000000", OPERATION, QUOTE),
            ChargeResult("t0", ONE, NINE, Decimal("8.000000"), replayed=True),
        ),
        (
            hold_wire.reserved(b"ok\x001000000\x001500\x009000000\x001000000", OPERATION, QUOTE),
            ReserveResult(NAME, ONE, datetime.fromtimestamp(1.5, UTC), NINE, ONE),
        ),
        (
            hold_wire.captured(
                b"ok\x001000000\x008000000\x009000000\x000\x001", OPERATION, b"h", QUOTE
            ),
            CaptureResult(
                *(NAME, "h", ONE, NINE, NINE, Decimal("8.000000"), Decimal("0.000000")),
                finished=True,
            ),
        ),
    ],
)
def test_a_result_is_the_same_as_one_made_by_its_type(result: Any, expected: Any) -> None:
    assert expected == result
    assert type(expected) is type(result)
    assert "memory" == result.acknowledged
