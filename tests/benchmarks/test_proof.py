"""Every way in which the sums of a run can be off is found, alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from credits_fast.benchmarks.product import Books
from credits_fast.benchmarks.proof import judge
from credits_fast.benchmarks.readings import NAIVE
from credits_fast.errors import InsufficientCreditsError, RedisUnavailableError
from credits_fast.types import CaptureResult, ChargeResult
from tests.benchmarks.outcomes import proof

ONE = Decimal(1)


def judged(**changed: Mapping[str, Any]) -> list[str]:
    """The findings on a proof in which everything agrees, but for what is changed."""
    made = proof()
    baselines = {**made.baselines, **changed.pop("baselines", {})}
    parts = {
        name: replace(getattr(made, name), **changed.get(name, {}))
        for name in ("books", "rows", "sheet", "redis")
    }
    return judge(**parts, users=2, baselines=baselines)


def test_a_run_in_which_all_agrees_has_no_problem() -> None:
    assert [] == judged()


@pytest.mark.parametrize(
    ("expected", "changed"),
    [
        ("the ledger has 4 rows for 5", {"sheet": {"transactions": 4}}),
        ("the ledger has 4 different ids", {"rows": {"distinct": 4}}),
        ("the audit log has 6 successes for 8", {"rows": {"succeeded": 6}}),
        ("the audit log has 8 successes for 7", {"books": {"reservations": 2}}),
        ("the audit log has 1 failures for 2", {"rows": {"failed": 1}}),
        ("the ledger remembers 3 keys of 4", {"rows": {"remembered": 3}}),
        ("the ledger charged 6", {"sheet": {"charged": 6 * ONE}}),
        ("does not conserve", {"sheet": {"opening": ONE}}),
        ("another balance", {"sheet": {"differing": {"ada": "why"}}}),
        ("drifts by 1", {"sheet": {"drift": ONE}}),
        ("the ledger has 3 of 2 users", {"sheet": {"users": 3}}),
        ("Redis knows 1 of 2", {"redis": {"compared": 1}}),
        ("1 users differ", {"redis": {"differing": {"ada": "why"}}}),
        ("the sums of redis-py", {"baselines": {NAIVE: 7}}),
    ],
)
def test_what_does_not_agree_is_told(expected: str, changed: dict[str, Any]) -> None:
    found = judged(**changed)

    assert any(expected in problem for problem in found), found


def test_credits_that_are_gone_on_both_sides_are_missed_all_the_same() -> None:
    found = judged(sheet={"opening": Decimal(2_000_004), "balances": Decimal(1_999_999)})

    assert ["the users have 1999999 credits, 1999995 are left"] == found


def test_the_books_know_a_charge_from_a_replay_and_a_refusal() -> None:
    books = Books()
    took = ChargeResult("t", ONE, 3 * ONE, 2 * ONE, replayed=False)
    again = ChargeResult("t", ONE, 3 * ONE, 2 * ONE, replayed=True)
    books.note([took, again, InsufficientCreditsError("ada", ONE, ONE)])
    books.note([took], is_keyed=False)

    assert Books(charges=2, keyed=1, credits=2 * ONE, replays=1, refusals=1) == books


def test_a_capture_is_a_charge_and_its_reservation_is_known_too() -> None:
    books = Books()
    took = CaptureResult("t", "h", 2 * ONE, 2 * ONE, 3 * ONE, ONE, 0 * ONE, finished=True)
    books.note_captures([took, took])

    assert Books(charges=2, reservations=2, keyed=2, credits=4 * ONE) == books
    with pytest.raises(InsufficientCreditsError):
        books.note_captures([InsufficientCreditsError("ada", ONE, ONE)])


def test_a_call_that_failed_for_another_reason_ends_the_run() -> None:
    with pytest.raises(RedisUnavailableError):
        Books().note([RedisUnavailableError("gone")])
