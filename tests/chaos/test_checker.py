"""Every invariant is examined: a run that keeps all of them passes, and each planted violation is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from credits_fast.chaos.checker import INVARIANTS, Outage, Terms, Verdict, Window, judge
from credits_fast.chaos.evidence import Evidence, Held, JournalEnd, PositionSample, Row
from credits_fast.chaos.history import (
    Asked,
    Attempt,
    Outcome,
    from_line,
    operations,
    to_line,
)

A, B = "ada", "bob"


def acknowledged(
    number: int, user: str, micros: int, after: int, *, at: int, key: str | None = ""
) -> Attempt:
    """A charge that was acknowledged; under a key of its own where none is named."""
    asked = Asked(number, user, "charge", micros, f"k{number}" if key == "" else key)
    return Attempt(
        asked, at, at + 5, Outcome.ACKNOWLEDGED, "", f"t{number}", micros, after, replayed=False
    )


def ended(number: int, user: str, outcome: Outcome, *, at: int, code: str = "") -> Attempt:
    """A charge of 10 that ended in another way."""
    return Attempt(Asked(number, user, "charge", 10, f"k{number}"), at, at + 5, outcome, code)


def row(number: int, user: str, sequence: int, micros: int, before: int) -> Row:
    """A charge in the ledger."""
    after = before - micros
    return Row(f"t{number}", user, sequence, "charge", -micros, before, after, f"k{number}", number)


HISTORY = [
    acknowledged(1, A, 30, 70, at=0),
    acknowledged(2, A, 20, 50, at=10),
    acknowledged(3, B, 100, 0, at=10),
    ended(4, B, Outcome.REFUSED, at=20, code="INSUFFICIENT_CREDITS"),
    ended(5, A, Outcome.UNAVAILABLE, at=30, code="REDIS_UNAVAILABLE"),
    ended(6, A, Outcome.AMBIGUOUS, at=40, code="OUTCOME_UNKNOWN"),
    acknowledged(2, A, 20, 50, at=50)._replace(replayed=True),
]
ROWS = (row(1, A, 1, 30, 100), row(2, A, 2, 20, 70), row(3, B, 1, 100, 100), row(6, A, 3, 10, 50))
HELD = {A: Held(40, 3), B: Held(0, 1)}
EVIDENCE = Evidence(
    openings={A: 100, B: 100},
    rows=ROWS,
    ledger=HELD,
    redis=HELD,
    redis_known=2,
    samples=(
        PositionSample(0, 1, (1, 1), 1, "w1"),
        PositionSample(0, 1, (1, 2), 2, "w2"),
        PositionSample(0, 1, (1, 4), 2, None),
    ),
    journals=(JournalEnd(0, (1, 3), (1, 4)), JournalEnd(1, None, None)),
    recorded_ms=5.0,
)
TERMS = Terms(outages=(Outage("kill", 12),), limit_ms=1_000)

Plant = Callable[[], Verdict]


def verdict(
    history: list[Attempt] | None = None, terms: Terms = TERMS, **evidence: object
) -> Verdict:
    """The verdict on the good run with something put in its place."""
    changed = replace(EVIDENCE, **evidence)  # type: ignore[arg-type]  # names and values of its fields
    return judge(HISTORY if history is None else history, changed, terms)


def test_a_run_that_keeps_every_promise_breaks_none() -> None:
    found = verdict()

    assert [] == found.broken
    assert INVARIANTS.keys() == found.examined.keys()


def test_the_figures_say_how_every_operation_ended() -> None:
    figures = verdict().figures

    assert (6, 7) == (figures.attempted, figures.attempts)
    assert (3, 1, 1, 1) == (
        figures.acknowledged,
        figures.refused,
        figures.unavailable,
        figures.ambiguous,
    )
    assert (1, 1, 4) == (figures.ambiguous_executed, figures.replayed, figures.recorded)
    assert 0 == figures.acknowledged_held
    assert (0, 0, 0, 0) == (
        figures.lost,
        figures.duplicated,
        figures.below_floor,
        figures.drift,
    )


def test_what_is_held_first_is_counted_by_how_it_ended() -> None:
    history = [acknowledged(number, A, 10, 90, at=0, key=None) for number in (1, 2)]
    refused = history[1]._replace(outcome=Outcome.REFUSED)

    assert [False, True] == [one.asked.is_held for one in history]
    assert 1 == verdict(history).figures.acknowledged_held
    assert 0 == verdict([history[0], refused]).figures.acknowledged_held


def test_everything_is_looked_at() -> None:
    looked_at = {name: one.looked_at for name, one in verdict().examined.items()}

    assert {
        "I1": 2,
        "I2": 4,
        "I3": 12,
        "I4": 3,
        "I5": 2,
        "I6": 6,
        "I7": 3,
        "I8": 2,
        "I9": 4,
        "I10": 2,
        "I11": 0,
        "I12": 2,
    } == looked_at


PLANTS: list[tuple[str, str, Plant]] = [
    ("I1", "a balance nobody made", lambda: verdict(ledger={**HELD, A: Held(41, 3)})),
    ("I1", "a row of a stranger", lambda: verdict(rows=(*ROWS, row(7, "eve", 1, 1, 5)))),
    (
        "I2",
        "a gap in the sequence",
        lambda: verdict(rows=(*ROWS[:3], ROWS[3]._replace(sequence=4))),
    ),
    (
        "I2",
        "a chain that does not fit",
        lambda: verdict(rows=(ROWS[0]._replace(before=99), *ROWS[1:])),
    ),
    ("I2", "a user ahead of the rows", lambda: verdict(ledger={**HELD, A: Held(40, 4)})),
    (
        "I3",
        "an operation that took effect twice",
        lambda: verdict(rows=(*ROWS, row(2, A, 4, 20, 40)._replace(id="t9"))),
    ),
    (
        "I3",
        "an operation without a key that took effect twice",
        lambda: verdict(
            [acknowledged(1, A, 30, 70, at=0, key=None)],
            rows=(ROWS[0]._replace(key=None), row(1, A, 2, 30, 70)._replace(id="t9", key=None)),
        ),
    ),
    ("I3", "a row nobody asked for", lambda: verdict(rows=(*ROWS, row(77, A, 4, 1, 40)))),
    (
        "I3",
        "a repeated call with another answer",
        lambda: verdict([*HISTORY[:-1], HISTORY[-1]._replace(transaction_id="t8")]),
    ),
    ("I4", "an acknowledged operation that is lost", lambda: verdict(rows=ROWS[1:])),
    (
        "I4",
        "an answer that is another operation's",
        lambda: verdict([HISTORY[0]._replace(transaction_id="t3"), *HISTORY[1:]]),
    ),
    (
        "I4",
        "an answer with another amount",
        lambda: verdict([HISTORY[0]._replace(micros=31), *HISTORY[1:]]),
    ),
    ("I5", "another balance in Redis", lambda: verdict(redis={**HELD, A: Held(39, 3)})),
    ("I5", "another sequence in Redis", lambda: verdict(redis={**HELD, A: Held(40, 2)})),
    ("I5", "a difference found by the comparison", lambda: verdict(differing={A: "differs"})),
    ("I5", "a user that cannot be asked for", lambda: verdict(redis={A: HELD[A]})),
    ("I6", "a row below zero", lambda: verdict(rows=(*ROWS[:3], row(6, A, 3, 60, 50)))),
    ("I6", "a balance below zero in Redis", lambda: verdict(redis={**HELD, B: Held(-1, 1)})),
    (
        "I6",
        "an answer below zero",
        lambda: verdict([*HISTORY[:2], HISTORY[2]._replace(balance_after=-1), *HISTORY[3:]]),
    ),
    ("I7", "a position that goes back", lambda: verdict(samples=EVIDENCE.samples[::-1])),
    (
        "I7",
        "two workers under one fence",
        lambda: verdict(
            samples=(*EVIDENCE.samples, PositionSample(0, 1, (1, 4), 2, "w3")),
        ),
    ),
    ("I8", "a hole in the journal", lambda: verdict(journals=(JournalEnd(0, (1, 5), (1, 4)),))),
    ("I8", "a journal that is gone", lambda: verdict(journals=(JournalEnd(0, None, (1, 4)),))),
    (
        "I9",
        "an earlier operation that comes later",
        lambda: verdict(
            [acknowledged(1, A, 30, 50, at=0), acknowledged(2, A, 20, 80, at=10)],
            rows=(row(2, A, 1, 20, 100), row(1, A, 2, 30, 80)),
        ),
    ),
    (
        "I10",
        "a refused operation in the ledger",
        lambda: verdict(rows=(*ROWS, row(4, B, 2, 10, 0))),
    ),
    (
        "I10",
        "one in the ledger that was said not to be executed",
        lambda: verdict(rows=(*ROWS, row(5, A, 4, 10, 40))),
    ),
    (
        "I11",
        "a key that was used for two operations",
        lambda: verdict(
            [*HISTORY, acknowledged(7, A, 1, 39, at=60, key="k2")],
            rows=(*ROWS, row(7, A, 4, 1, 40)._replace(key="k2")),
        ),
    ),
    (
        "I11",
        "a used key that is refused as something else",
        lambda: verdict(
            [
                *HISTORY,
                Attempt(
                    Asked(7, A, "charge", 1, "k2"), 60, 65, Outcome.REFUSED, "INSUFFICIENT_CREDITS"
                ),
            ],
        ),
    ),
    (
        "I12",
        "nothing acknowledged after an outage",
        lambda: verdict(terms=Terms(outages=(Outage("kill", 100),))),
    ),
    (
        "I12",
        "an acknowledgement that came too late",
        lambda: verdict(terms=Terms(outages=(Outage("kill", 12),), limit_ms=1e-6)),
    ),
    ("I12", "what is never recorded", lambda: verdict(recorded_ms=None)),
]


@pytest.mark.parametrize(
    ("invariant", "plant"),
    [(name, plant) for name, _, plant in PLANTS],
    ids=[what for _, what, _ in PLANTS],
)
def test_a_planted_violation_is_found(invariant: str, plant: Plant) -> None:
    found = plant()

    assert invariant in found.broken
    assert found.examined[invariant].shown


def test_there_is_a_planted_violation_of_every_invariant() -> None:
    assert INVARIANTS.keys() == {name for name, _, _ in PLANTS}


def test_a_used_key_that_is_refused_as_a_conflict_is_right() -> None:
    conflict = Attempt(
        Asked(7, A, "charge", 1, "k2"), 60, 65, Outcome.REFUSED, "IDEMPOTENCY_KEY_CONFLICT"
    )
    found = verdict([*HISTORY, conflict])

    assert [] == found.broken
    assert 1 == found.examined["I11"].looked_at


def test_what_a_scenario_may_move_has_to_be_there_with_whatever_balance() -> None:
    other = [HISTORY[0]._replace(balance_after=65), *HISTORY[1:]]
    terms = Terms(may_move=(Window(0, 3),))
    gone = tuple(one for one in ROWS if one.number != 1)
    dearer = (ROWS[0]._replace(delta=-31, after=69), *ROWS[1:])

    assert "I4" in verdict(other).broken
    assert "I4" not in verdict(other, terms).broken
    assert "I4" in verdict(other, terms, rows=gone).broken
    assert "I4" in verdict(other, terms, rows=dearer).broken


def test_what_a_scenario_may_lose_is_counted_and_no_violation() -> None:
    left = {A: Held(90, 1), B: HELD[B]}
    terms = Terms(may_lose=(Window(0, 20), Window(50, 60)))
    found = verdict(
        terms=terms,
        rows=(ROWS[2], row(6, A, 1, 10, 100)),
        ledger=left,
        redis=left,
    )

    assert [] == found.broken
    assert (2, 2) == (found.figures.lost, found.figures.lost_within_bound)


def test_an_answer_outside_the_bound_must_hold() -> None:
    """Operation 2 was answered again after the window: that answer binds."""
    left = {A: Held(90, 1), B: HELD[B]}
    found = verdict(
        terms=Terms(may_lose=(Window(0, 20),)),
        rows=(ROWS[2], row(6, A, 1, 10, 100)),
        ledger=left,
        redis=left,
    )

    assert ["I4"] == found.broken
    assert (2, 1) == (found.figures.lost, found.figures.lost_within_bound)


def test_an_operation_whose_metadata_is_unreadable_is_found_by_its_key() -> None:
    found = verdict(rows=(*ROWS[:3], ROWS[3]._replace(number=None)))

    assert [] == found.broken
    assert 1 == found.figures.ambiguous_executed


def test_the_drift_adds_up_what_differs_anywhere() -> None:
    found = verdict(ledger={**HELD, A: Held(45, 3)}, redis={**HELD, A: Held(38, 3)})

    assert 5 + 7 == found.figures.drift


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([Outcome.AMBIGUOUS, Outcome.ACKNOWLEDGED], Outcome.ACKNOWLEDGED),
        ([Outcome.AMBIGUOUS, Outcome.REFUSED], Outcome.REFUSED),
        ([Outcome.AMBIGUOUS, Outcome.UNAVAILABLE], Outcome.AMBIGUOUS),
        ([Outcome.UNAVAILABLE, Outcome.UNAVAILABLE], Outcome.UNAVAILABLE),
        ([Outcome.ACKNOWLEDGED, Outcome.UNAVAILABLE], Outcome.ACKNOWLEDGED),
    ],
)
def test_only_an_answer_settles_what_was_ambiguous(
    outcomes: list[Outcome], expected: Outcome
) -> None:
    history = [ended(1, A, outcome, at=at) for at, outcome in enumerate(outcomes)]

    assert expected is operations(history)[1].outcome


def test_a_history_survives_being_written_down() -> None:
    assert HISTORY == [from_line(to_line(attempt)) for attempt in HISTORY]


def undone(delta: int = -20, *, back: int = 20) -> Verdict:
    """A key of user A that was used once more, and what a row of the library gives back of it."""
    again = Row("t7", A, 4, "charge", delta, 40, 40 + delta, "k1", 7)
    reversal = Row("r7", A, 5, "refund", back, 40 + delta, 40 + delta + back, None, None, "t7")
    after = 40 + delta + back
    history = [*HISTORY, acknowledged(7, A, -delta, 40 + delta, at=60)._replace(replayed=False)]
    history[-1] = history[-1]._replace(asked=history[-1].asked._replace(key="k1"))
    held = {**HELD, A: Held(after, 5)}
    return verdict(history=history, rows=(*ROWS, again, reversal), ledger=held, redis=held)


def test_what_a_row_of_the_library_undoes_counts_for_nothing() -> None:
    found = undone()

    assert [] == found.broken
    assert (0, 1) == (found.figures.duplicated, found.figures.reversed)


def test_half_of_it_does_not_undo_it() -> None:
    found = undone(back=10)

    assert "I3" in found.broken
    assert found.figures.duplicated >= 1


def granted(number: int, after: int, *, at: int) -> Attempt:
    """Five credits for user B under one key."""
    asked = Asked(number, B, "grant", 5, "kg")
    return Attempt(
        asked, at, at + 5, Outcome.ACKNOWLEDGED, "", f"t{number}", 5, after, replayed=False
    )


def test_what_was_given_twice_is_taken_back_below_zero_and_nothing_else_is() -> None:
    history = [
        *HISTORY,
        granted(8, 5, at=60),
        granted(9, 10, at=70),
        acknowledged(10, B, 10, 0, at=80),
    ]
    rows = [
        Row("t8", B, 2, "grant", 5, 0, 5, "kg", 8),
        Row("t9", B, 3, "grant", 5, 5, 10, "kg", 9),
        Row("t10", B, 4, "charge", -10, 10, 0, "k10", 10),
        Row("r9", B, 5, "grant", -5, 0, -5, None, None, "t9"),
    ]
    held = {**HELD, B: Held(-5, 5)}

    found = verdict(history=history, rows=(*ROWS, *rows), ledger=held, redis=held)
    assert [] == found.broken
    rows[-1] = rows[-1]._replace(reverses=None)
    found = verdict(history=history, rows=(*ROWS, *rows), ledger=held, redis=held)
    assert {"I3", "I6"} <= {*found.broken}


LOST_AND_SETTLED = Evidence(
    openings={A: 100},
    rows=(
        row(1, A, 1, 30, 100),
        Row("s1", A, 2, "charge", -20, 70, 50, None, None, settles=True),
    ),
    ledger={A: Held(50, 2)},
    redis={A: Held(50, 2)},
    redis_known=1,
    recorded_ms=5.0,
)
REMEMBERED = [
    acknowledged(1, A, 30, 70, at=0),
    acknowledged(2, A, 20, 50, at=10),
    acknowledged(2, A, 20, 50, at=50)._replace(replayed=True),
]
MAY_LOSE = Terms(may_lose=(Window(8, 20),))


def test_what_a_recovery_settles_is_the_sum_of_what_was_lost() -> None:
    found = judge(REMEMBERED, LOST_AND_SETTLED, replace(MAY_LOSE, may_remember=True))

    assert [] == found.broken
    assert (1, 1, 0) == (
        found.figures.lost,
        found.figures.lost_within_bound,
        found.figures.duplicated,
    )
    assert 2 == found.examined["I1"].looked_at


def test_a_settlement_that_is_another_sum_is_found() -> None:
    rows = (LOST_AND_SETTLED.rows[0], LOST_AND_SETTLED.rows[1]._replace(delta=-21, after=49))
    held = {A: Held(49, 2)}
    evidence = replace(LOST_AND_SETTLED, rows=rows, ledger=held, redis=held)

    found = judge(REMEMBERED, evidence, replace(MAY_LOSE, may_remember=True))

    assert ["I1"] == found.broken
    assert "differs by -1 from what was lost" in found.examined["I1"].shown


def test_what_nobody_settles_is_found_where_redis_has_it() -> None:
    held = {A: Held(70, 1)}
    evidence = replace(LOST_AND_SETTLED, rows=LOST_AND_SETTLED.rows[:1], ledger=held, redis=held)

    assert ["I1"] == judge(REMEMBERED, evidence, replace(MAY_LOSE, may_remember=True)).broken


def test_a_settlement_is_not_judged_where_something_may_have_been_lost_unanswered() -> None:
    history = [*REMEMBERED, ended(3, A, Outcome.AMBIGUOUS, at=11, code="OUTCOME_UNKNOWN")]
    rows = (LOST_AND_SETTLED.rows[0], LOST_AND_SETTLED.rows[1]._replace(delta=-21, after=49))
    held = {A: Held(49, 2)}
    evidence = replace(LOST_AND_SETTLED, rows=rows, ledger=held, redis=held)

    assert [] == judge(history, evidence, replace(MAY_LOSE, may_remember=True)).broken


def test_an_answer_that_repeats_a_lost_one_binds_where_redis_does_not_remember_it() -> None:
    assert ["I4"] == judge(REMEMBERED, LOST_AND_SETTLED, MAY_LOSE).broken


def test_what_was_decided_on_a_history_that_was_given_up_may_be_below_zero_in_the_ledger() -> None:
    history = [acknowledged(1, A, 130, 10, at=0)]
    evidence = replace(
        EVIDENCE,
        openings={A: 100},
        rows=(
            row(1, A, 1, 130, 100),
            Row("s1", A, 2, "grant", 40, -30, 10, None, None, settles=True),
        ),
        ledger={A: Held(10, 2)},
        redis={A: Held(10, 2)},
        samples=(),
        journals=(),
    )

    assert "I6" in judge(history, evidence, Terms()).broken
    moved = judge(history, evidence, Terms(may_move=(Window(0, 9),)))
    assert "I6" not in moved.broken
    assert 0 == moved.figures.below_floor
