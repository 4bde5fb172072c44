"""A run as one JSON document: every scenario with its figures, invariants and faults, and the totals. Pure.

Counts are numbers, amounts are micro-credits, times are milliseconds. What never happened is null.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from credits_fast.chaos.checker import INVARIANTS

if TYPE_CHECKING:
    from credits_fast.chaos.checker import Figures, Verdict
    from credits_fast.chaos.mutation import MutantPlay
    from credits_fast.chaos.run import Played
    from credits_fast.chaos.scenario import Scenario

__all__ = ["Circumstances", "catalogue", "document", "mutant_document"]

Circumstances = Mapping[str, Any]
"""When and where and how a run was made: `set`, `seed`, `date`, `command`, `machine`, `versions`."""

_TIMES: Final = ("readmission_ms", "recorded_ms")
_PROBLEMS_MAX: Final = 100


def document(
    played: Sequence[Played], seconds: float, circumstances: Circumstances
) -> dict[str, Any]:
    """The run for machines.

    Args:
        played: What was played.
        seconds: How long all of it took.
        circumstances: When and where and how.
    """
    return {
        "kept": all(one.is_kept for one in played),
        "problems": [
            f"{one.scenario.name} (seed {one.seed}): {problem}"
            for one in played
            for problem in one.problems
        ],
        "totals": _totals(played),
        "scenarios": [_scenario(one) for one in played],
        "invariants": INVARIANTS,
        "seconds": round(seconds, 1),
        "servers": played[0].servers if played else {},
        **circumstances,
    }


def catalogue(scenarios: Mapping[str, Scenario]) -> dict[str, Any]:
    """The scenarios there are, for machines."""
    return {
        "scenarios": [
            {
                "name": one.name,
                "promise": one.promise,
                "sets": _sets(one),
            }
            for one in scenarios.values()
        ]
    }


def mutant_document(
    plays: Sequence[MutantPlay], seconds: float, circumstances: Circumstances
) -> dict[str, Any]:
    """A run of mutants for machines.

    Args:
        plays: What was played, the scenarios as they are among it.
        seconds: How long all of it took.
        circumstances: When and where and how.
    """
    return {
        "kept": all(one.is_as_it_should_be for one in plays),
        "caught": sum(one.is_as_it_should_be for one in plays if one.mutant is not None),
        "mutants": [
            {
                "name": one.mutant.name,
                "defect": one.mutant.defect,
                "scenario": one.scenario,
                "breaks": one.mutant.breaks,
                "caught": one.is_as_it_should_be,
                **_came_of(one),
            }
            for one in plays
            if one.mutant is not None
        ],
        "unchanged": [
            {"scenario": one.scenario, "kept": one.is_as_it_should_be, **_came_of(one)}
            for one in plays
            if one.mutant is None
        ],
        "invariants": INVARIANTS,
        "seconds": round(seconds, 1),
        **circumstances,
    }


def _came_of(one: MutantPlay) -> dict[str, Any]:
    return {
        "broken": dict(one.broken),
        "problems": [*one.problems],
        "failure": one.failure or None,
        "seconds": one.seconds,
    }


def _sets(scenario: Scenario) -> list[str]:
    return ["smoke", "standard"] if scenario.is_in_smoke else ["standard"]


def _totals(played: Sequence[Played]) -> dict[str, int]:
    totals: Counter[str] = Counter(_counts(played[0].verdict.figures)) if played else Counter()
    for one in played[1:]:
        totals.update(_counts(one.verdict.figures))
    return {
        "scenarios": len(played),
        "kept": sum(one.is_kept for one in played),
        "faults": sum(one.faults.total() for one in played),
        **totals,
    }


def _counts(figures: Figures) -> dict[str, int]:
    return {name: value for name, value in asdict(figures).items() if name not in _TIMES}


def _scenario(one: Played) -> dict[str, Any]:
    figures, scenario = one.verdict.figures, one.scenario
    return {
        "name": scenario.name,
        "promise": scenario.promise,
        "kept": one.is_kept,
        "problems": one.problems,
        "seed": one.seed,
        "faults": dict(one.faults),
        "observations": dict(one.observations),
        **_counts(figures),
        "readmission_ms": [_rounded(ms) for ms in figures.readmission_ms],
        "recorded_ms": _rounded(figures.recorded_ms),
        "limit_ms": scenario.limit_s * 1_000,
        "invariants": _invariants(one.verdict),
        "expectations": [each._asdict() for each in one.expectations],
        "surprises": dict(one.surprises),
        "seconds": round(one.seconds, 1),
    }


def _invariants(verdict: Verdict) -> dict[str, Any]:
    return {
        name: {
            "looked_at": found.looked_at,
            "broken": len(found.problems),
            "problems": [*found.problems[:_PROBLEMS_MAX]],
        }
        for name, found in verdict.examined.items()
    }


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 1)
