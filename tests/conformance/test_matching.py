"""The matcher says yes where it should and, above all, no where it should."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from tests.conformance.matching import UnknownMatcherError, WithEquivalents, mismatches

_NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
_FOUND = {
    "id": "t1",
    "amount": Decimal("-13.460000"),
    "metadata": {"a": 1, "nested": {"b": [1, 2]}},
    "tags": ["x", "y"],
    "none": None,
    "flag": True,
    "at": _NOON,
}

_HOLDS: list[tuple[Any, Any]] = [
    ({}, _FOUND),
    ({"id": "t1", "amount": Decimal("-13.46")}, _FOUND),
    ({"metadata": {"nested": {"b": [1, 2]}}}, _FOUND),
    ({"none": None, "flag": True}, _FOUND),
    ({"missing": {"$absent": True}}, _FOUND),
    ({"at": {"$date": "2026-01-15T12:00:00.000Z"}}, _FOUND),
    ({"metadata": {"$exact": {"a": 1, "nested": {"b": {"$count": 2}}}}}, _FOUND),
    ({"$exact": {"a": 1, "b": {"$absent": True}}}, {"a": 1}),
    ({"$exact": [1, {"a": 1}]}, [1, {"a": 1, "b": 2}]),
    (0, Decimal("-0")),
    (10, 10.0),
    (Decimal("0.1"), 0.1),
    (Decimal("6.666666666666667"), Decimal("6.666666666666666666666666667")),
    ({"$any": "string"}, "x"),
    ({"$any": "number"}, Decimal(0)),
    ({"$any": "boolean"}, False),
    ({"$any": "object"}, {"a": 1}),
    ({"$any": "array"}, [0]),
    ({"$any": "date"}, _NOON),
    ({"$count": 0}, []),
    ({"$count": 2}, {"a": 1, "b": 2}),
    ({"$contains": "tier gold"}, "unknown tier gold in costs.a"),
    ({"$date": "2026-01-15T12:00:00.000Z"}, "2026-01-15T12:00:00Z"),
    ({"$date": "2026-01-15T12:00:00Z"}, _NOON.astimezone(timezone(timedelta(hours=5)))),
    ({"$special": "NaN"}, Decimal("NaN")),
    ({"$special": "Infinity"}, float("inf")),
    ({"$special": "undefined"}, None),
    ({"a": {"$special": "undefined"}}, {}),
    ({"a": 1, "b": {"$ref": "a"}}, {"a": 1, "b": 1}),
    ({"id": {"$ref": "rows[1].id"}}, {"id": "t2", "rows": [{"id": "t1"}, {"id": "t2"}]}),
    ({"$any_order": [1, 2, 3]}, [3, 1, 2]),
    ({"$any_order": [{}, {"a": 1}]}, [{"a": 1}, {"b": 1}]),
    ({"$some": {"a": 2}}, [{"a": 1}, {"a": 2}]),
    ([{"a": 1}, {"$any": "string"}], [{"a": 1, "b": 2}, "x"]),
]

_DIFFERS: list[tuple[Any, Any]] = [
    ({"id": "t2"}, _FOUND),
    ({"missing": None}, _FOUND),
    ({"id": {"$absent": True}}, _FOUND),
    ({"none": {"$absent": True}}, _FOUND),
    ({"metadata": {"nested": {"b": [2, 1]}}}, _FOUND),
    ({"metadata": {"nested": {"b": [1]}}}, _FOUND),
    ({"metadata": {"$exact": {"a": 1}}}, _FOUND),
    ({"metadata": {"$exact": {"a": 1, "nested": {}, "more": 1}}}, _FOUND),
    ({"$exact": {"a": 1, "b": {"$absent": True}}}, {"a": 1, "b": 2}),
    ({"at": {"$date": "2026-01-15T12:00:00.001Z"}}, _FOUND),
    ({"a": 1}, [1]),
    ({"a": 1}, None),
    ([], None),
    ([], {}),
    ([1], [1, 2]),
    ([1, 2], [1]),
    (1, 2),
    (1, "1"),
    (1, True),
    (True, 1),
    (0, False),
    (None, 0),
    (None, False),
    ("", None),
    ("a", "A"),
    (Decimal("0.30000000000000004"), Decimal("0.3")),
    (Decimal("0.3"), 0.1 + 0.2),
    (Decimal("6.67"), Decimal("6.666666666666666666666666667")),
    (1, Decimal("NaN")),
    ({"$any": "string"}, ""),
    ({"$any": "string"}, 1),
    ({"$any": "number"}, True),
    ({"$any": "number"}, "1"),
    ({"$any": "number"}, Decimal("NaN")),
    ({"$any": "object"}, {}),
    ({"$any": "array"}, []),
    ({"$any": "date"}, "noon"),
    ({"$any": "boolean"}, 0),
    ({"$count": 1}, []),
    ({"$count": 1}, "x"),
    ({"$count": 0}, None),
    ({"$contains": "gold"}, "silver"),
    ({"$contains": "gold"}, None),
    ({"$date": "2026-01-15T12:00:00Z"}, None),
    ({"$date": "2026-01-15T12:00:00Z"}, datetime(2026, 1, 15, 12)),  # noqa: DTZ001  # no zone
    ({"$special": "NaN"}, 1),
    ({"$special": "Infinity"}, float("-inf")),
    ({"$special": "Infinity"}, Decimal("NaN")),
    ({"$special": "undefined"}, 0),
    ({"$special": "function"}, len),
    ({"a": {"$ref": "b"}}, {"a": 1, "b": 2}),
    ({"a": {"$ref": "c"}}, {"a": 1}),
    ({"a": {"$ref": "rows[0].id"}}, {"a": 1, "rows": []}),
    ({"$any_order": [1, 2]}, [1, 1]),
    ({"$any_order": [1, 2]}, [1, 2, 3]),
    ({"$any_order": [{"a": 1}, {"a": 1}]}, [{"a": 1}, {}]),
    ({"$any_order": []}, None),
    ({"$some": {"a": 3}}, [{"a": 1}, {"a": 2}]),
    ({"$some": {}}, []),
]


@pytest.mark.parametrize(("expected", "actual"), _HOLDS)
def test_what_is_as_expected_matches(expected: Any, actual: Any) -> None:
    assert [] == mismatches(expected, actual)


@pytest.mark.parametrize(("expected", "actual"), _DIFFERS)
def test_what_is_not_as_expected_does_not_match(expected: Any, actual: Any) -> None:
    assert mismatches(expected, actual)


@pytest.mark.parametrize(
    "expected",
    [
        {"$like": 1},
        {"$any": "colour"},
        {"$special": "null"},
        {"$absent": False},
        {"$date": "noon"},
        {"$ref": "a b"},
        {"$any": "string", "more": 1},
    ],
)
def test_a_matcher_nobody_defined_is_an_error(expected: Any) -> None:
    with pytest.raises(UnknownMatcherError):
        mismatches({"a": expected}, {"a": 1})


def test_every_difference_is_named_with_its_path() -> None:
    expected = {"users": [{"credits": 1}, {"credits": 2}], "audit": {"$count": 1}}
    actual = {"users": [{"credits": 1}, {"credits": 3}], "audit": []}

    assert [
        "users[1].credits: expected 2, found 3",
        "audit: expected 1 elements, found []",
    ] == mismatches(expected, actual)


def test_an_equivalent_answers_for_a_missing_key_only() -> None:
    found = WithEquivalents({"error": "no"}, {"errorCode": "USER_NOT_FOUND", "error": "other"})

    assert [] == mismatches({"errorCode": "USER_NOT_FOUND", "error": "no"}, found)
    assert mismatches({"errorCode": "OTHER"}, found)


def test_an_equivalent_is_not_part_of_the_object() -> None:
    found = WithEquivalents({"error": "no"}, {"errorCode": "USER_NOT_FOUND"})

    assert [] == mismatches({"errorCode": {"$absent": True}}, found)
    assert [] == mismatches({"$exact": {"error": "no"}}, found)
    assert mismatches({"$exact": {"error": "no", "errorCode": "USER_NOT_FOUND"}}, found)
