"""What was found, for people: the table of the designs, and a counterexample told step by step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from tests.model.invariants import VIOLATIONS

if TYPE_CHECKING:
    from tests.model.explorer import Exploration
    from tests.model.table import Found

__all__ = ["named", "story", "table"]

_ENDS: Final = {
    "twice": "a key has taken effect twice",
    "missing": "what was acknowledged and survived is not in the ledger",
    "apart": "Redis and the ledger do not agree, and nobody will notice",
    "overdrawn": "more credits are given away than there were",
    "backwards": "the ledger's position has gone back",
    "gap": "the user's sequence has a gap",
}


def named(violations: Iterable[str]) -> str:
    """Violations in their order, or `none`."""
    found = set(violations)
    return ", ".join(name for name in VIOLATIONS if name in found) or "none"


def story(exploration: Exploration) -> list[str]:
    """Every shortest trace, a line a step."""
    lines: list[str] = []
    for violation in VIOLATIONS:
        steps = exploration.traces.get(violation)
        if steps is None:
            continue
        lines += [f"{violation}: {_ENDS[violation]}"]
        lines += [f"  {number}. {words}" for number, words in enumerate(steps, 1)]
    return lines


def table(found: Sequence[Found]) -> list[str]:
    """The rows as a table in Markdown."""
    lines = ["| left out | violations | states |", "|---|---|---|"]
    for each in found:
        violations = named(each.violations)
        if violations == "none" and each.row.backed_by:
            violations = f"none; {each.row.backed_by}"
        lines.append(f"| {each.row.name} | {violations} | {each.states:,} |")
    return lines
