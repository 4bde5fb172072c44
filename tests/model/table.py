"""The table: what goes wrong without which ingredient. A test asserts every row, no more and no less.

A row says what is violated in all of its worlds together; `shown_in` names those that are enough to see
all of it, which are small. Where nothing is violated another ingredient stands behind: a second line of
defence, which the rows of pairs show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.model.design import TODAY, WHOLE, Design
from tests.model.explorer import explore
from tests.model.worlds import ROOMY_WORLDS, WORLDS

if TYPE_CHECKING:
    from tests.model.invariants import Violation
    from tests.model.state import Bounds

__all__ = ["HIDDEN", "ROWS", "Found", "Row", "examined", "explored"]

HIDDEN: Final = replace(WHOLE, identity="hidden")
explored: Final = cache(explore)
"""The same, once: a world is asked for by a row, and for the trace that is told of it."""


class Row(NamedTuple):
    """A design, and what it violates.

    Attributes:
        name: What is left out, or what it is.
        design: The design.
        violations: All that it violates in its worlds.
        shown_in: The worlds in which all of that can be seen.
        backed_by: Where nothing is violated: why not.
        worlds: Its worlds.
    """

    name: str
    design: Design
    violations: frozenset[Violation]
    shown_in: tuple[str, ...]
    backed_by: str = ""
    worlds: Mapping[str, Bounds] = WORLDS


class Found(NamedTuple):
    """What was found of a row, and in how many states of all worlds explored."""

    row: Row
    violations: frozenset[Violation]
    states: int


def examined(row: Row, worlds: Iterable[str]) -> Found:
    """The row explored in the worlds named."""
    found: set[Violation] = set()
    states = 0
    for name in worlds:
        exploration = explored(row.design, row.worlds[name])
        found |= exploration.violations
        states += exploration.states
    return Found(row, frozenset(found), states)


def _without(
    *ingredients: str, shown_in: tuple[str, ...], gives: str = "", backed_by: str = ""
) -> Row:
    name = " and ".join(f"`{ingredient}`" for ingredient in ingredients)
    design = WHOLE.without(*ingredients)
    return Row(name, design, _set(gives), shown_in, backed_by)


def _hidden(
    *ingredients: str, shown_in: tuple[str, ...], gives: str = "", backed_by: str = ""
) -> Row:
    left_out = ["the identity, with room", *(f"`{ingredient}`" for ingredient in ingredients)]
    design = HIDDEN.without(*ingredients)
    return Row(", ".join(left_out), design, _set(gives), shown_in, backed_by, ROOMY_WORLDS)


def _set(names: str) -> frozenset[Violation]:
    return frozenset(names.split())  # type: ignore[arg-type]


ROWS: Final = (
    Row("nothing: the whole design", WHOLE, _set(""), tuple(WORLDS)),
    Row(
        "the promotion in the identity: the design today",
        TODAY,
        _set("overdrawn"),
        ("there and back",),
    ),
    Row(
        "the identity",
        HIDDEN,
        _set("apart overdrawn"),
        ("there and back",),
    ),
    _without("admission_fence", shown_in=("failover",), gives="overdrawn"),
    _without("opening_compares", shown_in=("failover",), gives="overdrawn"),
    _without("opening_creates_absent", shown_in=("slow opening",), gives="overdrawn"),
    _without("opening_fences", shown_in=("failover", "wipe"), gives="overdrawn"),
    _without("batch_under_claim", shown_in=("failover", "wipe"), gives="overdrawn"),
    _without("worker_fence", shown_in=("failover", "wipe"), gives="overdrawn"),
    _without("overlap_read", shown_in=("failover, overtaken repair",), gives="missing apart"),
    _without(
        "whole_stamp",
        shown_in=("failover", "older copy"),
        backed_by="a history that was lost is not charged on",
    ),
    _without(
        "compare_and_set",
        shown_in=("lost commit", "failover"),
        backed_by="`chain` refuses what is recorded already",
    ),
    _without(
        "chain",
        shown_in=("lost commit", "failover"),
        backed_by="`compare_and_set` lets only what follows be written",
    ),
    _without(
        "conditional_trim",
        shown_in=("failover", "failover, record gone"),
        backed_by="the fence is asked by trimming too",
    ),
    _without("load_once", shown_in=("evictions",), gives="apart"),
    _without("load_generation", shown_in=("evictions",), gives="apart"),
    _without("generation_is_new", shown_in=("wipe, evictions",), gives="apart"),
    _without("evict_recorded", shown_in=("evictions",), gives="apart"),
    _without("unique_transaction", shown_in=("failover, record gone",), gives="twice overdrawn"),
    _without("key_records", shown_in=("record gone, key again",), gives="twice"),
    _without("reversal", shown_in=("record gone, key again",), gives="twice"),
    _without("repairs", shown_in=("failover, record gone",), gives="twice"),
    _without("repair_applies", shown_in=("failover",), gives="apart overdrawn"),
    _without("repair_records", shown_in=("failover, overtaken repair",), gives="missing"),
    _without("repair_compares", shown_in=("failover, overtaken repair",), gives="missing apart"),
    _without("repair_on_one_server", shown_in=("there and back",), gives="apart overdrawn"),
    _without(
        "repair_remembers",
        shown_in=("wipe, key again",),
        backed_by="`reversal` undoes the late duplicates",
    ),
    _without(
        "repair_closes",
        shown_in=("failover", "wipe"),
        backed_by="the fence keeps closed what has to be repaired",
    ),
    _without(
        "fork_closes",
        shown_in=("failover",),
        backed_by="the repair closes",
    ),
    _without("compare_and_set", "chain", shown_in=("lost commit",), gives="apart gap"),
    _without(
        *("compare_and_set", "chain", "unique_transaction"),
        shown_in=("lost commit",),
        gives="twice apart overdrawn gap",
    ),
    _without(
        *("compare_and_set", "worker_fence"),
        shown_in=("lost commit", "failover"),
        gives="overdrawn backwards",
    ),
    _without(
        *("overlap_read", "opening_compares"),
        shown_in=("failover", "failover, record gone"),
        gives="twice missing apart overdrawn",
    ),
    _without("repair_remembers", "reversal", shown_in=("wipe, key again",), gives="twice"),
    _hidden(shown_in=("failover, with room",), backed_by="there is room for what is given away"),
    _hidden(
        "overlap_read",
        shown_in=("failover, with room", "failover, record gone"),
        gives="twice missing apart",
    ),
    _hidden("whole_stamp", shown_in=("failover, three callers repeat",), gives="missing"),
    _hidden(
        "conditional_trim",
        shown_in=("failover, record gone", "failover, three callers"),
        gives="twice missing",
    ),
    _hidden(
        "repair_records",
        shown_in=("failover, with room", "failover, record gone"),
        gives="twice missing",
    ),
    _hidden("repair_compares", shown_in=("failover, overtaken repair",), gives="apart missing"),
)
