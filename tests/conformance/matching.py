"""The matcher of the case file: what differs between what a case expects and what came out.

Objects match by subset: a key nobody asked for does not matter. Lists and scalars match exactly,
numbers by their exact decimal value (so -0 is 0). An object whose only key begins with `$` is a
matcher:

    {"$exact": x}      x, and no further keys
    {"$any": type}     any non-empty value of that type: string, number, boolean, object, array, date
    {"$count": n}      a list or object of n elements
    {"$absent": true}  the key is missing
    {"$ref": path}     equal to another part of the outcome, such as `transactions[0].id`
    {"$contains": s}   text that contains s
    {"$date": iso}     that instant, as a datetime or as ISO 8601 text
    {"$special": s}    NaN, Infinity, -Infinity or undefined; a host function equals nothing here

and two that stand for keys of the notation which are no values:

    {"$any_order": l}  a list whose elements match those of l in some order
    {"$some": x}       a list of which at least one element matches x
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, cast

__all__ = ["ABSENT", "UnknownMatcherError", "WithEquivalents", "instant", "mismatches", "number"]

_DOUBLE_DIGITS: Final = 17
_NONE: Final[Mapping[str, Any]] = {}
_STEP: Final = re.compile(r"([A-Za-z_]\w*)|\[(\d+)\]|\.", re.ASCII)


class UnknownMatcherError(ValueError):
    """The case uses a matcher that nobody has defined: it must not pass unnoticed."""


class _Absent:
    """The type of `ABSENT`."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT: Final = _Absent()
"""What is found where a key is missing."""


class WithEquivalents(dict[str, Any]):
    """An object that can answer for a key it does not have, from where we keep the same fact.

    `$exact` and `$absent` look at the object alone.
    """

    def __init__(self, values: Mapping[str, Any], equivalents: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.equivalents = equivalents


def mismatches(expected: Any, actual: Any, outcome: Any = None) -> list[str]:
    """Every difference, each with its path; empty where the actual value is as expected.

    Args:
        expected: The expectation, with matchers in it.
        actual: What came out.
        outcome: The whole outcome, which `$ref` refers to; `actual` itself by default.

    Raises:
        UnknownMatcherError: The expectation uses a matcher that does not exist.
    """
    return _Matching(actual if outcome is None else outcome).differences(expected, actual, "")


def number(value: Any) -> Decimal | None:
    """The exact value of a number, None for anything else; a float is what Python prints for it."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | Decimal):
        return Decimal(value)
    return Decimal(repr(value)) if isinstance(value, float) else None


def instant(value: Any) -> datetime | None:
    """The moment of a datetime or of ISO 8601 text, in UTC; None for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime) or value.tzinfo is None:
        return None
    return value.astimezone(UTC)


class _Matching:
    def __init__(self, outcome: Any) -> None:
        self._outcome = outcome
        self._matchers: dict[str, Callable[[Any, Any, str], list[str]]] = {
            "$exact": self._exact,
            "$any": _any,
            "$count": _count,
            "$absent": _absent,
            "$ref": self._reference,
            "$contains": _contains,
            "$date": _date,
            "$special": _special,
            "$any_order": self._any_order,
            "$some": self._some,
        }

    def differences(self, expected: Any, actual: Any, path: str) -> list[str]:
        if isinstance(expected, Mapping):
            members = cast("Mapping[str, Any]", expected)
            operator = next((name for name in members if name.startswith("$")), None)
            if operator is None:
                return self._subset(members, actual, path)
            if operator not in self._matchers or len(members) != 1:
                raise UnknownMatcherError(f"{path or 'the expectation'}: {dict(members)!r}")
            return self._matchers[operator](members[operator], actual, path)
        if isinstance(expected, list | tuple):
            return self._list(cast("Sequence[Any]", expected), actual, path)
        return [] if _equal(expected, actual) else _differs(path, repr(expected), actual)

    def _subset(self, expected: Mapping[str, Any], actual: Any, path: str) -> list[str]:
        if not isinstance(actual, Mapping):
            return _differs(path, "an object", actual)
        found = cast("Mapping[str, Any]", actual)
        equivalents = actual.equivalents if isinstance(actual, WithEquivalents) else _NONE
        differences: list[str] = []
        for name, value in expected.items():
            there: Any = found.get(name, ABSENT)
            if there is ABSENT and not _wants_absence(value):
                there = equivalents.get(name, ABSENT)
            differences += self.differences(value, there, f"{path}.{name}" if path else name)
        return differences

    def _list(self, expected: Sequence[Any], actual: Any, path: str) -> list[str]:
        if not isinstance(actual, list | tuple):
            return _differs(path, "a list", actual)
        found = cast("Sequence[Any]", actual)
        if len(found) != len(expected):
            return _differs(path, f"{len(expected)} elements", actual)
        pairs = enumerate(zip(expected, found, strict=True))
        return [
            difference
            for index, (one, other) in pairs
            for difference in self.differences(one, other, f"{path}[{index}]")
        ]

    def _exact(self, expected: Any, actual: Any, path: str) -> list[str]:
        if isinstance(expected, Mapping) and isinstance(actual, Mapping):
            found = dict(cast("Mapping[str, Any]", actual))
            differences = self.differences(expected, found, path)
            more = sorted(found.keys() - cast("Mapping[str, Any]", expected).keys())
            return differences + (_differs(path, "no further keys", more) if more else [])
        return self.differences(expected, actual, path)

    def _reference(self, expected: Any, actual: Any, path: str) -> list[str]:
        there = _at(self._outcome, str(expected))
        if there is ABSENT:
            return _differs(path, f"what is at {expected}, where nothing is", actual)
        return [] if _equal(there, actual) else _differs(path, f"{there!r}, as {expected}", actual)

    def _any_order(self, expected: Any, actual: Any, path: str) -> list[str]:
        if not isinstance(actual, list | tuple):
            return _differs(path, "a list", actual)
        found = cast("Sequence[Any]", actual)
        if len(found) != len(expected):
            return _differs(path, f"{len(expected)} elements", actual)
        fits = [
            [at for at, one in enumerate(found) if not self.differences(wanted, one, path)]
            for wanted in expected
        ]
        return [] if _can_be_paired(fits) else _differs(path, f"{expected!r} in any order", actual)

    def _some(self, expected: Any, actual: Any, path: str) -> list[str]:
        found = cast("Sequence[Any]", actual) if isinstance(actual, list | tuple) else ()
        if any(not self.differences(expected, one, path) for one in found):
            return []
        return _differs(path, f"some {expected!r}", actual)


def _wants_absence(expected: Any) -> bool:
    return isinstance(expected, Mapping) and "$absent" in expected


def _differs(path: str, expected: str, actual: Any) -> list[str]:
    return [f"{path or 'the outcome'}: expected {expected}, found {actual!r}"]


def _equal(expected: Any, actual: Any) -> bool:
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    one, other = number(expected), number(actual)
    if one is not None and other is not None:
        return one == other or _same_double(one, other)
    moment = instant(actual) if isinstance(actual, datetime) else None
    if moment is not None:
        return instant(expected) == moment
    return type(expected) is type(actual) and bool(expected == actual)


def _same_double(expected: Decimal, actual: Decimal) -> bool:
    """A value with more digits than a double has can only be expected as the nearest double."""
    digits = len(actual.as_tuple().digits)
    return actual.is_finite() and digits > _DOUBLE_DIGITS and float(expected) == float(actual)


def _any(expected: Any, actual: Any, path: str) -> list[str]:
    match expected:
        case "string":
            fits = isinstance(actual, str) and actual != ""
        case "number":
            value = number(actual)
            fits = value is not None and value.is_finite()
        case "boolean":
            fits = isinstance(actual, bool)
        case "object":
            fits = isinstance(actual, Mapping) and bool(cast("Mapping[str, Any]", actual))
        case "array":
            fits = isinstance(actual, list | tuple) and bool(cast("Sequence[Any]", actual))
        case "date":
            fits = instant(actual) is not None
        case _:
            raise UnknownMatcherError(f"{path}: $any {expected!r}")
    return [] if fits else _differs(path, f"any {expected}", actual)


def _count(expected: Any, actual: Any, path: str) -> list[str]:
    if isinstance(actual, list | tuple | Mapping):
        found = cast("Sequence[Any] | Mapping[str, Any]", actual)
        if len(found) == expected:
            return []
    return _differs(path, f"{expected} elements", actual)


def _absent(expected: Any, actual: Any, path: str) -> list[str]:
    if expected is not True:
        raise UnknownMatcherError(f"{path}: $absent {expected!r}")
    return [] if actual is ABSENT else _differs(path, "nothing", actual)


def _contains(expected: Any, actual: Any, path: str) -> list[str]:
    if isinstance(actual, str) and expected in actual:
        return []
    return _differs(path, f"text with {expected!r} in it", actual)


def _date(expected: Any, actual: Any, path: str) -> list[str]:
    moment = instant(expected)
    if moment is None:
        raise UnknownMatcherError(f"{path}: $date {expected!r}")
    return [] if instant(actual) == moment else _differs(path, f"the moment {expected}", actual)


def _special(expected: Any, actual: Any, path: str) -> list[str]:
    value = number(actual)
    match expected:
        case "NaN":
            fits = value is not None and value.is_nan()
        case "Infinity" | "-Infinity":
            fits = value is not None and not value.is_nan() and value == Decimal(expected)
        case "undefined":
            fits = actual is None or actual is ABSENT
        case "function":
            fits = False
        case _:
            raise UnknownMatcherError(f"{path}: $special {expected!r}")
    return [] if fits else _differs(path, str(expected), actual)


def _can_be_paired(fits: Sequence[Sequence[int]]) -> bool:
    """Whether every expectation can have a found element of its own (augmenting paths)."""
    taken_by: dict[int, int] = {}

    def place(wanted: int, tried: set[int]) -> bool:
        for at in fits[wanted]:
            if at in tried:
                continue
            tried.add(at)
            if at not in taken_by or place(taken_by[at], tried):
                taken_by[at] = wanted
                return True
        return False

    return all(place(wanted, set()) for wanted in range(len(fits)))


def _at(outcome: Any, path: str) -> Any:
    value: Any = outcome
    at = 0
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            raise UnknownMatcherError(f"$ref {path!r}")
        at = step.end()
        name, index = step.groups()
        if name is not None:
            value = cast("Any", value).get(name, ABSENT) if isinstance(value, Mapping) else ABSENT
        elif index is not None:
            value = _element(value, int(index))
    return value


def _element(value: Any, index: int) -> Any:
    if not isinstance(value, list | tuple):
        return ABSENT
    found = cast("Sequence[Any]", value)
    return found[index] if index < len(found) else ABSENT
