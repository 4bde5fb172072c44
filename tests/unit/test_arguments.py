"""What callers may pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest

from credits_fast import InvalidArgumentError, InvalidMetadataError, UserNotFoundError
from credits_fast.arguments import identifier, metadata_json, moment, user_identifier


@pytest.mark.parametrize("text", ["a", "a{b}:c\n\t\\", "é" * 128, "x" * 256, " ", "😀"])
def test_an_identifier_is_any_text_of_bounded_length(text: str) -> None:
    assert text.encode() == identifier("action", text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must have 1 to 256 bytes, not 0"),
        ("x" * 257, "must have 1 to 256 bytes, not 257"),
        ("é" * 129, "must have 1 to 256 bytes, not 258"),
        ("a\0b", "contains NUL"),
        ("\ud800", "has a lone surrogate"),
        (5, "must be text, not int"),
        (b"a", "must be text, not bytes"),
        (None, "must be text, not NoneType"),
    ],
)
def test_what_is_no_identifier_is_refused(text: Any, problem: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        identifier("idempotency_key", text)

    assert f"idempotency_key {problem}" == refused.value.message


def test_no_user_has_an_empty_id() -> None:
    with pytest.raises(UserNotFoundError, match="the user id is empty"):
        user_identifier("")


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        (None, b""),
        ({}, b""),
        ({"a": [1, 2.5, None, True, "é"]}, '{"a":[1,2.5,null,true,"é"]}'.encode()),
        ({"a": {"b": (1, 2)}}, b'{"a":{"b":[1,2]}}'),
        (MappingProxyType({"a": 1}), b'{"a":1}'),
        ({"a": "\\u0000"}, b'{"a":"\\\\u0000"}'),
        ({"a": [[[[[[[1]]]]]]]}, b'{"a":[[[[[[[1]]]]]]]}'),
    ],
)
def test_metadata_is_compact_json(metadata: Any, text: bytes) -> None:
    assert text == metadata_json(metadata)


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def cycle() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["a"] = value
    return value


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ([], "must be a mapping"),
        ([1], "must be a mapping"),
        ("ab", "must be a mapping"),
        ({"a": float("nan")}, "is not JSON"),
        ({"a": float("inf")}, "is not JSON"),
        ({1: 2}, "has a key that is not text"),
        ({"a": {1: 2}}, "has a key that is not text"),
        ({"a": "\0"}, "contains NUL"),
        ({"\0": 1}, "contains NUL"),
        ({"a": "\ud800"}, "has a lone surrogate"),
        ({"\udfff": 1}, "has a lone surrogate"),
        ({"a": object()}, "is not JSON"),
        ({"a": {1, 2}}, "is not JSON"),
        ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, "is not JSON"),
        ({"a": "x" * 4_090}, "has 4098 bytes as JSON, more than 4096"),
        (deep(9), "is deeper than 8"),
        (deep(5_000), "is deeper than 8"),
        (cycle(), "is deeper than 8"),
    ],
    ids=range(18),
)
def test_what_is_no_json_object_of_bounded_size_is_refused(metadata: Any, problem: str) -> None:
    with pytest.raises(InvalidMetadataError) as refused:
        metadata_json(metadata)

    assert refused.value.message.startswith(f"metadata {problem}")


def test_the_limits_of_metadata_are_allowed() -> None:
    assert 4_096 == len(metadata_json({"a": "x" * 4_088}))
    assert metadata_json(deep(8))


def test_a_moment_is_utc_in_whole_milliseconds() -> None:
    east = datetime(2026, 1, 15, 14, 0, 0, 1_999, tzinfo=timezone(timedelta(hours=2)))

    assert datetime(2026, 1, 15, 12, 0, 0, 1_000, tzinfo=UTC) == moment("expires_at", east)


@pytest.mark.parametrize("value", [datetime(2026, 1, 15), "2026-01-15", 5])  # noqa: DTZ001
def test_a_moment_that_nobody_can_place_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="expires_at"):
        moment("expires_at", value)
