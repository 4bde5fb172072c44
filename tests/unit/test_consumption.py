"""What a stream consumes, counted: sums, steps, and what it lacks."""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, localcontext
from typing import Any

import pytest

from credits_fast import InvalidAmountError, InvalidArgumentError
from credits_fast.amounts import to_micros
from credits_fast.config import CreditsConfig
from credits_fast.holds.consumption import Consumption
from credits_fast.prices.pricing import Priced, PriceList
from credits_fast.types import Variables

PRICES = PriceList(
    CreditsConfig.model_validate(
        {
            "costs": {"chat": {"default": "{input} * 0.003 + {output} * 0.015"}},
            "membership": {"tiers": {}},
        }
    )
)


def chat(sums: Variables) -> Priced:
    return PRICES.price("chat", None, sums)


def counted(reserved: int = 100, share: str = "0.25", **estimate: Any) -> Consumption:
    return Consumption(to_micros(reserved), Decimal(share), estimate or None)


def test_amounts_add_up_and_a_step_is_due_when_it_is_full() -> None:
    count = counted()
    for _ in range(24):
        assert count.has_room(count.with_amount(1))
        count.count(count.with_amount(1))
    assert (to_micros(24), False) == (count.consumed, count.is_due)

    last = count.with_amount(1)
    assert not count.has_room(last)
    count.count(last)
    assert (True, b"25000000") == (count.is_due, count.rest().options[0].cost)
    count.settled = count.consumed
    assert (False, b"0") == (count.is_due, count.rest().options[0].cost)


def test_the_price_of_variables_is_the_price_of_their_sums() -> None:
    """A cent is 0.667 of an output token: rounded one by one they would cost half as much again."""
    count = counted(input=1, output=1)
    count.count(count.with_variables({"input": 1_000}, chat))
    for _ in range(100):
        count.count(count.with_variables({"output": 1}, chat))

    assert to_micros("4.5") == count.consumed
    count.settled = to_micros(3)
    option = count.rest().options[0]
    assert (b"1500000", b"1.500000", b"{input} * 0.003 + {output} * 0.015") == option[1:4]
    assert b'{"input":1000,"output":100}' == count.rest().variables


def test_floats_are_summed_exactly() -> None:
    count = counted(input=0, output=0)
    for _ in range(10):
        count.count(count.with_variables({"input": 0.1}, chat))

    assert b'{"input":1,"output":0}' == count.rest().variables


def test_what_the_hold_lacks_is_told_and_it_grows_by_as_much_as_it_was() -> None:
    count = counted(10)
    count.count(count.with_amount(9))

    short = count.short_of(count.with_amount("1.5"))
    assert (to_micros("0.5"), to_micros(10)) == (short, count.growth(short))
    assert to_micros(11) == count.growth(to_micros(11))
    assert 0 == count.short_of(count.with_amount(1))


def test_a_hold_of_nothing_has_a_step_all_the_same() -> None:
    count = counted(0)
    assert count.has_room(count.with_amount(0))
    assert not count.has_room(count.with_amount("0.000001"))


@pytest.mark.parametrize(
    "variables",
    [{"output": -1}, {"output": float("nan")}, {"output": True}, {"output": "1"}, {"": None}, 5],
    ids=str,
)
def test_variables_that_are_no_numbers_from_0_are_refused(variables: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        counted(input=0, output=0).with_variables(variables, chat)


def test_numbers_beyond_measure_are_refused_like_others() -> None:
    count = counted(input=0, output=0)
    largest = {"unpriced": Decimal("9e999999")}
    count.count(count.with_variables(largest, chat))

    with pytest.raises(InvalidArgumentError, match="too large"):
        count.with_variables(largest, chat)
    with pytest.raises(InvalidArgumentError, match="numbers from 0"):
        count.with_variables({"input": -(10**5_000)}, chat)  # more digits than Python writes


def test_more_variables_than_can_be_recorded_are_refused_before_they_count() -> None:
    with pytest.raises(InvalidArgumentError, match="bytes as JSON"):
        counted(input=0, output=0).with_variables({"n" * 3_000: 1}, chat)


def test_amounts_and_variables_are_not_mixed() -> None:
    amounts, variables = counted(), counted(input=0, output=0)
    amounts.count(amounts.with_amount(1))
    variables.count(variables.with_variables({"input": 1}, chat))

    with pytest.raises(InvalidArgumentError, match="cannot follow an amount"):
        amounts.with_variables({"input": 1, "output": 1}, chat)
    with pytest.raises(InvalidArgumentError, match="cannot follow variables"):
        variables.with_amount(1)
    with pytest.raises(InvalidAmountError):
        amounts.with_amount(-1)


def test_sums_are_exact_whatever_the_applications_decimal_context() -> None:
    with localcontext(Context(prec=4)):
        count = counted(output=0)
        for tokens in (10_000, Decimal("0.5"), Decimal("0.5"), 0.25):
            count.count(count.with_variables({"input": tokens}, chat))
        rest = count.rest()

    assert b'{"output":0,"input":10001.25}' == rest.variables
    assert (b"30000000", b"30.003750") == rest.options[0][1:3]


def test_a_step_is_found_whatever_the_applications_decimal_context() -> None:
    with localcontext(Context(prec=2, traps=[Inexact])):
        assert counted(123, "0.125").has_room(Priced(Decimal(15), None, Decimal(15), None))
