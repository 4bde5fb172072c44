"""The judgement on a case: it holds, it deviates as it should, there is nothing to hold, or it fails."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from tests.conformance.cases import BUILT_IN, Case
from tests.conformance.deviations import deviation_of
from tests.conformance.expectations import prepared
from tests.conformance.matching import mismatches
from tests.conformance.operations import NoCounterpartError
from tests.conformance.runner import outcome_of
from tests.servers import Servers

__all__ = ["Judgement", "Verdict", "judged"]

Verdict: TypeAlias = Literal["passed", "deviating", "skipped", "failed"]


class Judgement(NamedTuple):
    """A verdict and the reason for it."""

    verdict: Verdict
    reason: str = ""


async def judged(case: Case, servers: Servers) -> Judgement:
    """Run a case and compare. What the case itself expects comes first, also where we may deviate."""
    try:
        expected = prepared(case.expected)
        outcome = await outcome_of(case, servers)
    except NoCounterpartError as nothing:
        return Judgement("skipped", str(nothing))
    differences = mismatches(expected, outcome)
    if not differences:
        is_listed = case.origin == BUILT_IN.name and deviation_of(case) is not None
        return Judgement("failed", f"{case.title}: deviates no longer") if is_listed else _PASSED
    deviation = deviation_of(case)
    if deviation is None:
        return Judgement("failed", _listed(case, differences))
    differences = mismatches(prepared(deviation[1]), outcome)
    if differences:
        return Judgement("failed", _listed(case, ["it should deviate", *differences]))
    return Judgement("deviating", deviation[0].what)


_PASSED = Judgement("passed")


def _listed(case: Case, differences: list[str]) -> str:
    return "\n  ".join([case.title, *differences])
