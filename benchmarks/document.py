"""A run as one JSON document: every figure with its rounds, and everything the page is drawn from. Pure.

A figure stands at the top as the median of its rounds, so that it can be compared at once, and under
`spread` with its rounds, minimum and maximum. What was not measured is null, never left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from credits_fast.benchmarks.figures import CPU_PARTS, FIGURES, figures, percent_name
from credits_fast.benchmarks.readings import PERCENTS, Contest, Reading
from credits_fast.benchmarks.spread import Spread

if TYPE_CHECKING:
    from credits_fast.benchmarks.proof import Proof
    from credits_fast.benchmarks.readings import Readings
    from credits_fast.benchmarks.run import Outcome

__all__ = ["Circumstances", "document", "rounded", "thinned"]

_CPU: Final = "cpu_s_per_million"
_DIGITS: Final = 4
_POINTS_MAX: Final = 400

Circumstances = dict[str, Any]
"""When and where and how a run was made: `date`, `command`, `loop`, `machine`, `versions`."""


def document(outcome: Outcome, circumstances: Circumstances) -> dict[str, Any]:
    """The run for machines."""
    found = figures(outcome.readings)
    medians = {name: spread and rounded(spread.median) for name, spread in found.items()}
    parts = {part: medians.pop(f"{_CPU}.{part}") for part in CPU_PARTS}
    return {
        "verified": outcome.proof.is_verified,
        "problems": outcome.proof.problems,
        **medians,
        _CPU: parts,
        "spread": {name: spread and _spread(spread) for name, spread in found.items()},
        "goals": _goals(found),
        "throughput": _throughput(outcome.readings),
        "lag": [
            thinned([(rounded(at), rounded(ms)) for at, ms in one.lag])
            for one in outcome.readings.carried
        ],
        "growth": _growth(outcome.readings),
        "proof": _proof(outcome.proof),
        "notes": outcome.notes,
        "set": outcome.plan.name,
        "rounds": outcome.plan.rounds,
        "seconds": rounded(outcome.seconds),
        "servers": outcome.facts,
        **circumstances,
    }


def rounded(value: float) -> float:
    """A few significant digits: more would claim a precision nobody has.

    Example:
        >>> rounded(63123.456), rounded(0.123456)
        (63120.0, 0.1235)
    """
    return float(f"{value:.{_DIGITS}g}")


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Evenly chosen points, a bounded number, the last one among them."""
    every = -(-len(points) // _POINTS_MAX) or 1
    return [*points[::-1][::every]][::-1]


def _spread(spread: Spread) -> dict[str, Any]:
    return {
        "median": rounded(spread.median),
        "minimum": rounded(spread.minimum),
        "maximum": rounded(spread.maximum),
        "rounds": [rounded(value) for value in spread.rounds],
    }


def _goals(found: dict[str, Spread | None]) -> dict[str, Any]:
    return {
        name: {
            "goal": figure.goal,
            "reached": None
            if (spread := found[name]) is None
            else figure.is_reached(spread.median),
        }
        for name, figure in FIGURES.items()
        if figure.goal
    }


def _throughput(readings: Readings) -> list[dict[str, Any]]:
    return [_contest(contest, found) for contest, found in readings.contests.items()]


def _contest(contest: Contest, found: Sequence[Reading]) -> dict[str, Any]:
    latency = {
        percent_name(percent): rounded(Spread(tuple(one.at(percent) for one in found)).median)
        for percent in PERCENTS
        if all(one.percentiles_ms for one in found)
    }
    return {
        **contest._asdict(),
        "charges_in_a_round": found[0].number,
        "charges_per_s": _spread(Spread(tuple(one.per_s for one in found))),
        "latency_ms": latency or None,
    }


def _growth(readings: Readings) -> list[dict[str, Any]]:
    return [
        {
            "users": population,
            "few_per_s": _spread(Spread(tuple(few for few, _ in pairs))),
            "all_per_s": _spread(Spread(tuple(many for _, many in pairs))),
            "ratio": _spread(Spread(tuple(many / few for few, many in pairs))),
        }
        for population, pairs in readings.growth.items()
    ]


def _proof(proof: Proof) -> dict[str, Any]:
    """What was compared, with how many of each: a verdict without denominators proves nothing."""
    return {
        "charges_acknowledged": proof.books.charges,
        "reservations_acknowledged": proof.books.reservations,
        "charges_in_the_ledger": proof.sheet.transactions,
        "replays_answered": proof.books.replays,
        "refusals_answered": proof.books.refusals,
        "refusals_audited": proof.rows.failed,
        "successes_audited": proof.rows.succeeded,
        "keys_used": proof.books.keyed,
        "keys_remembered": proof.rows.remembered,
        "credits_charged": proof.books.credits,
        "credits_charged_in_the_ledger": proof.sheet.charged,
        "balances": proof.sheet.balances,
        "drift": proof.sheet.drift + proof.redis.drift,
        "users": proof.sheet.users,
        "redis_users_compared": proof.redis.compared,
        "redis_users_differing": len(proof.redis.differing),
        "baselines_off_by": dict(proof.baselines),
    }
