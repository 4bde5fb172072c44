"""The case file: what a case says, and how its notation becomes Python values.

A case says what is given, what is done and what must come of it. Where the reference is wrong, it
also says what is better; then that counts, and the reference's value stands beside it for comparison.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from tests.conformance.matching import instant

__all__ = [
    "BUILT_IN",
    "MORE_CASES",
    "Case",
    "Object",
    "built_in",
    "case_of",
    "decoded",
    "named_cases",
    "steps_of",
]

Object: TypeAlias = dict[str, Any]
"""An object of the case file."""

BUILT_IN: Final = Path(__file__).with_name("cases.json")
MORE_CASES: Final = "CREDITS_CONFORMANCE_CASES"
"""The environment variable that names a file of further cases."""

_SPECIAL_NUMBERS: Final = frozenset({"NaN", "Infinity", "-Infinity"})
_UNDEFINED: Final = {"$special": "undefined"}
_NOW: Final = datetime(2026, 1, 15, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        id: Its name.
        group: What it is about.
        title: What it says, in words.
        given: The world before.
        when: The steps, each an operation with arguments, or `{"concurrent": [...]}`.
        then: What the reference does.
        better: What is better, None where the reference's behaviour is kept.
        reason: Why it is better.
        origin: Its file.
    """

    id: str
    group: str
    title: str
    given: Object
    when: tuple[Object, ...]
    then: Object
    better: Object | None
    reason: str
    origin: str

    @property
    def expected(self) -> Object:
        """What counts."""
        return self.then if self.better is None else self.better

    @property
    def now(self) -> datetime:
        """Where the clock stands."""
        return instant(self.given.get("now")) or _NOW

    @property
    def steps(self) -> list[Object]:
        """Every operation by itself, concurrent ones too."""
        return [*steps_of(self.when)]


def case_of(values: Mapping[str, Any], origin: str) -> Case:
    """The case an object of the file describes."""
    when: list[Object] | Object = values["when"]
    better: Any = values.get("better")
    return Case(
        id=values["id"],
        group=values.get("group", ""),
        title=values.get("title", ""),
        given=values.get("given") or {},
        when=tuple(when) if isinstance(when, list) else (when,),
        then=values.get("then") or {},
        better=None if better is None else better["then"],
        reason="" if better is None else better.get("reason", ""),
        origin=origin,
    )


def steps_of(when: Iterable[Object]) -> Iterable[Object]:
    """Every operation by itself, in the order of the file."""
    for step in when:
        yield from step.get("concurrent", [step])


def built_in() -> list[Case]:
    """The project's own cases."""
    return _read(BUILT_IN)


def named_cases() -> list[tuple[str, Case]]:
    """Every case to run with a name no other has: its id, and its file where an id comes again."""
    cases = built_in()
    more = os.environ.get(MORE_CASES)
    if more:
        cases += _read(Path(more))
    named: dict[str, Case] = {}
    for case in cases:
        name = case.id
        if name in named:
            name = f"{name}@{Path(case.origin).stem}"
        while name in named:
            name += "+"
        named[name] = case
    return [*named.items()]


def decoded(value: Any) -> Any:
    """A given value in Python: moments and special numbers as such.

    An undefined member is left out; an undefined variable is a value that is no number.
    """
    if isinstance(value, list):
        return [decoded(element) for element in cast("Sequence[Any]", value)]
    if not isinstance(value, dict):
        return value
    members = cast("Object", value)
    if "$date" in members:
        return instant(members["$date"])
    if "$special" in members:
        return _special(members["$special"])
    return {
        name: _variables(member) if name == "variables" else decoded(member)
        for name, member in members.items()
        if member != _UNDEFINED
    }


def _variables(values: Any) -> Any:
    if not isinstance(values, dict):
        return decoded(values)
    return {name: decoded(value) for name, value in cast("Object", values).items()}


def _special(name: str) -> object:
    """A special number; undefined is None, and anything else is something that is no value."""
    if name == "undefined":
        return None
    return Decimal(name) if name in _SPECIAL_NUMBERS else object()


def _read(path: Path) -> list[Case]:
    """Numbers with a point are read as exact decimals: as a float they would be other numbers."""
    found: list[Object] = json.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    origin = path.name if path == BUILT_IN or path.name != BUILT_IN.name else str(path)
    return [case_of(values, origin) for values in found]
