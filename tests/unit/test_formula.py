"""Formulas: the grammar and nothing more, exact, bounded."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credits_fast import FormulaEvaluationError, MissingVariableError
from credits_fast.formula import FormulaError, parse, to_price


@pytest.mark.parametrize(
    ("text", "variables", "value"),
    [
        ("{token} * 0.001 + 10", {"token": 3456}, "13.456"),
        ("{a} / {b} * {c}", {"a": 100, "b": 5, "c": 2}, "40"),
        ("{a} - {b} * {c} / {d}", {"a": 100, "b": 6, "c": 4, "d": 3}, "92"),
        ("-{x}", {"x": -5}, "5"),
        ("{a}-{b}", {"a": 5, "b": -3}, "8"),
        ("!0 * 3 + !7", {}, "3"),
        ("{a} > 1 ? 2 : 3 + 10", {"a": 0}, "13"),
        ("{a} > 0 ? {b} > 0 ? 1 : 2 : 3", {"a": 1, "b": 0}, "2"),
        ("{a} || {b} && {c} ? 1 : 2", {"a": 0, "b": 1, "c": 0}, "2"),
        ("{x} || 7", {"x": 0}, "7"),
        ("{x} && 7", {"x": 2}, "7"),
        ("({x} > 5) * 10", {"x": 6}, "10"),
        ("(1 < 2) == 1 ? 4 : 5", {}, "4"),
        ("{x} == 0 ? 1 : 10 / {x}", {"x": 0}, "1"),
        ("010 + .5 + 1. + 1e3", {}, "1011.5"),
        ("\n{x} *\t2 ", {"x": 2}, "4"),
        ("{x}", {"x": 0.1}, "0.1"),
        ("{x}", {"x": Decimal("1.005")}, "1.005"),
        ("{x} / 3", {"x": 20}, "6.666666666666666666666666667"),
    ],
)
def test_a_formula_has_its_exact_value(text: str, variables: dict[str, Any], value: str) -> None:
    assert Decimal(value) == parse(text).evaluate(variables)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("{x", "brace_unclosed"),
        ("x}", "brace_extra_close"),
        ("{{x}}", "variable_name"),
        ("({x} + 1", "paren_unclosed"),
        (")(", "paren_extra_close"),
        ("{} * 2", "variable_empty"),
        ("{123token}", "variable_name"),
        ("{token-count} * 0.5", "variable_name"),
        ("{crédit}", "variable_name"),
        ('{q} == "high" ? 30 : 10', "characters"),
        ("{x} ^ 2", "characters"),
        ("{x} % 2", "characters"),
        ("{x} * * 2", "syntax"),
        ("{x} ** 2", "syntax"),
        ("{x} 0.5", "syntax"),
        ("{a}{b}", "syntax"),
        ("{a}5", "syntax"),
        ("* {x}", "syntax"),
        ("{x} > 1 ? 2", "syntax"),
        ("{x} = 5", "syntax"),
        ("{x} === 5 ? 1 : 2", "syntax"),
        ("{x} > = 5 ? 1 : 2", "syntax"),
        ("{x} & 6", "syntax"),
        ("(3 > 2 > 1) ? 1 : 0", "syntax"),
        ("token * 2", "syntax"),
        ("Math.floor({x})", "syntax"),
        ("0x10", "syntax"),
        ("1_000", "syntax"),
        ("()", "syntax"),
        ("{x} > 5", "not_a_number"),
        ("!{x}", "not_a_number"),
        ("{x} ? 1 < 2 : 2 < 3", "not_a_number"),
        ("1e500", "number"),
        ("1e99999999999999999999", "number"),
        ("1" * 513, "too_long"),
        ("(" * 17 + "1" + ")" * 17, "too_deep"),
        ("-" * 17 + "1", "too_deep"),
        ("+".join("1" * 33), "too_large"),
    ],
)
def test_what_is_no_formula_is_refused_by_its_rule(text: str, rule: str) -> None:
    with pytest.raises(FormulaError) as refused:
        parse(text)

    assert rule == refused.value.rule


def test_the_limits_themselves_are_allowed() -> None:
    assert 1 == parse("(" * 16 + "1" + ")" * 16).evaluate({})
    assert 32 == parse("+".join("1" * 32)).evaluate({})
    assert 1 == parse(" " * 511 + "1").evaluate({})


def test_variables_are_listed_once_in_order_of_appearance() -> None:
    assert ("b", "a") == parse("{b} + {a} * {b}").variables


def test_the_first_missing_variable_is_named_even_in_a_branch_not_taken() -> None:
    with pytest.raises(MissingVariableError) as refused:
        parse("{x} > 0 ? 1 : {y} + {z}").evaluate({"x": 1, "w": 2})

    assert ("y", ("x", "w")) == (refused.value.missing_variable, refused.value.provided_variables)


def test_a_value_has_a_bounded_size() -> None:
    """It travels, and is recorded, as text."""
    long = Decimal("1." + "3" * 10_000)

    assert Decimal("1." + "3" * 27) == parse("{x}").evaluate({"x": long})


@pytest.mark.parametrize("value", [10**5_000, "x" * 100_000], ids=["digits", "text"])
def test_what_cannot_be_shown_is_refused_like_any_other_value(value: Any) -> None:
    with pytest.raises(FormulaEvaluationError) as refused:
        parse("{x}").evaluate({"x": value})

    assert "invalid_variable" == refused.value.cause_kind
    assert 3_000 > len(refused.value.message)


@pytest.mark.parametrize(
    ("text", "variables", "kind"),
    [
        ("1 / {x}", {"x": 0}, "not_finite"),
        ("100 / (1 / {x})", {"x": 0}, "not_finite"),
        ("1 / {x} > 5 ? 1 : 2", {"x": 0}, "not_finite"),
        ("{x} / {x}", {"x": 0}, "nan"),
        ("{x} * 1e308", {"x": 100}, "not_finite"),
        ("{x} * {x}", {"x": 10**20}, "not_finite"),
        ("({x} > 5) || {x}", {"x": 6}, "not_a_number_type"),
        ("{x}", {"x": float("nan")}, "invalid_variable"),
        ("{x}", {"x": float("inf")}, "invalid_variable"),
        ("{x}", {"x": Decimal("NaN")}, "invalid_variable"),
        ("{x}", {"x": Decimal("1E+999999")}, "invalid_variable"),
        ("{x}", {"x": 10**31}, "invalid_variable"),
        ("{x}", {"x": True}, "invalid_variable"),
        ("{x}", {"x": "5"}, "invalid_variable"),
        ("{x}", {"x": None}, "invalid_variable"),
    ],
)
def test_a_formula_without_a_finite_value_says_why(
    text: str,
    variables: dict[str, Any],
    kind: str,
) -> None:
    with pytest.raises(FormulaEvaluationError) as refused:
        parse(text).evaluate(variables)

    assert kind == refused.value.cause_kind


@pytest.mark.parametrize(
    ("value", "price"),
    [("1.005", "1.01"), ("2.675", "2.68"), ("0.145", "0.15"), ("-0.004", "0"), ("-10", "0")],
)
def test_a_price_is_not_negative_and_rounded_half_up_on_the_decimal(value: str, price: str) -> None:
    assert Decimal(price) == to_price(parse("{x}"), Decimal(value), {})


def test_a_price_beyond_the_largest_amount_is_refused() -> None:
    with pytest.raises(FormulaEvaluationError, match="beyond"):
        to_price(parse("{x}"), Decimal(9_000_000_001), {})


@given(st.text(alphabet="{}()+-*/<>=!&|?:.0129eEab_ \n\0é", max_size=60))
def test_any_text_is_a_formula_or_refused_and_never_runs(text: str) -> None:
    try:
        formula = parse(text)
    except FormulaError:
        return
    values = dict.fromkeys(formula.variables, 3)
    try:
        assert formula.evaluate(values).is_finite()
    except FormulaEvaluationError:
        return


@given(
    st.lists(st.integers(0, 10**6), min_size=3, max_size=3),
    st.sampled_from(
        ["{a} + {b} * {c}", "({a} + {b}) * {c}", "{a} - {b} - {c}", "-{a} + {b} * -{c}"]
    ),
)
def test_arithmetic_agrees_with_python(numbers: list[int], text: str) -> None:
    a, b, c = numbers
    values = {"a": a, "b": b, "c": c}
    expected = {
        "{a} + {b} * {c}": a + b * c,
        "({a} + {b}) * {c}": (a + b) * c,
        "{a} - {b} - {c}": a - b - c,
        "-{a} + {b} * -{c}": -a + b * -c,
    }

    assert expected[text] == parse(text).evaluate(values)
