"""Quotes: the price of every tier, and why there is none."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from credits_fast import CreditsConfig, InvalidArgumentError, UndefinedActionError
from credits_fast.prices.pricing import Option, PriceList

CONFIG: dict[str, Any] = {
    "costs": {
        "chat": {"default": "{t} * 0.001 + 10", "pro": "{t} * 0.0008 + 8"},
        "image": {"default": 20, "pro": 15, "free": 20},
        "hybrid": {"default": 50, "pro": "{v} * 0.5"},
        "members": {"default": 3, "max": 2},
        "fine": {"default": Decimal("0.000001")},
    },
    "membership": {
        "tiers": {"free": 0, "pro": 1, "max": 2},
        "credits_caps": {"free": 1, "pro": 2, "max": 3},
        "requirements": {"members": "pro", "page": "free"},
    },
}


@pytest.fixture
def prices() -> PriceList:
    return PriceList(CreditsConfig.parse(CONFIG))


def test_a_tier_has_an_option_where_its_price_differs(prices: PriceList) -> None:
    assert (Option(b"pro", b"15000000"), Option(b"", b"20000000")) == prices.quote("image").options


def test_a_formula_price_tells_how_it_came_about(prices: PriceList) -> None:
    quote = prices.quote("chat", {"t": 3456})

    pro = Option(b"pro", b"10760000", b"10.7648", b"{t} * 0.0008 + 8")
    assert pro == quote.options[0]
    assert (b"13460000", b"13.456") == quote.options[1][1:3]
    assert b'{"t":3456}' == quote.variables


def test_without_variables_a_number_for_everyone_stands_in_for_a_formula(prices: PriceList) -> None:
    assert (Option(b"", b"50000000"),) == prices.quote("hybrid").options
    assert b"1500000" == prices.quote("hybrid", {"v": 3}).options[0].cost


def test_a_tier_below_the_requirement_may_not_act(prices: PriceList) -> None:
    expected = (
        Option(b"max", b"2000000"),
        Option(b"pro", b"3000000"),
        Option(b"", b"-", b"pro"),
    )
    assert expected == prices.quote("members").options
    named = (Option(b"max", b"7"), Option(b"pro", b"7"), Option(b"", b"-", b"pro"))
    assert named == prices.quote_amount("members", 7).options


def test_an_action_without_a_price_carries_its_error(prices: PriceList) -> None:
    (option,) = prices.quote("nope").options

    assert (b"!", b"UNDEFINED_ACTION") == option[1:3]
    assert isinstance(option.error, UndefinedActionError)
    assert [b"!", b"!", b"!", b"-"] == [option.cost for option in prices.quote("page").options]


def test_an_explicit_amount_needs_no_price(prices: PriceList) -> None:
    assert (Option(b"", b"5"),) == prices.quote_amount("nope", 5).options


def test_a_fixed_price_keeps_all_six_places(prices: PriceList) -> None:
    assert (Option(b"", b"1"),) == prices.quote("fine").options


def test_unlisted_actions_can_be_refused() -> None:
    membership = {**CONFIG["membership"], "unlisted_actions": "refuse"}
    prices = PriceList(CreditsConfig.parse({**CONFIG, "membership": membership}))

    with pytest.raises(UndefinedActionError):
        prices.required("nope")
    assert b"!" == prices.quote_amount("nope", 5).options[0].cost
    assert "free" == prices.required("page")


@pytest.mark.parametrize(
    "variables",
    [{"\ud800": 1}, {"a\0": 1}, {"a" * 3_000: 1}, {1: 1}, ["a"]],
)
def test_variables_that_cannot_be_recorded_are_refused(prices: PriceList, variables: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="variables"):
        prices.quote("chat", variables)


def test_what_is_no_number_is_recorded_as_text(prices: PriceList) -> None:
    quote = prices.quote("chat", {"t": float("nan"), "u": None, "w": Decimal("2.50")})  # type: ignore[dict-item]

    assert b'{"t":"nan","u":"None","w":2.5}' == quote.variables
    assert [b"!", b"!"] == [option.cost for option in quote.options]
