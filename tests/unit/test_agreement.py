"""Whether three places agree about a user, each at a moment of its own: every case, alone."""

from __future__ import annotations

import pytest

from credits_fast.checks.agreement import (
    Difference,
    Recorded,
    Step,
    apart_in_holds,
    at_first_sight,
    at_second_sight,
)
from credits_fast.checks.held import Held
from credits_fast.protocol.entries import EntryId

LEDGER = Recorded(100, 5)
STEPS = {6: Step(-10, 90), 7: Step(-20, 70)}


@pytest.mark.parametrize(("held", "floor"), [(Held(100, 5), 0), (Held(100, 5), 5), (None, 5)])
def test_at_first_sight_most_users_agree(held: Held | None, floor: int) -> None:
    assert True is at_first_sight(held, LEDGER, floor)


@pytest.mark.parametrize(("held", "floor"), [(None, 6), (Held(70, 7), 0), (Held(70, 7), 7)])
def test_who_is_ahead_of_the_ledger_needs_a_second_look(held: Held | None, floor: int) -> None:
    assert False is at_first_sight(held, LEDGER, floor)


@pytest.mark.parametrize(
    ("problem", "drift", "held", "floor"),
    [
        ("Redis has 0.000101 at sequence 5, the ledger has 0.000100 there", 1, Held(101, 5), 0),
        ("at sequence 4, and the ledger was at 5 before", 0, Held(100, 4), 5),
        ("at sequence 5, and the journal was at 6 before", 0, Held(100, 5), 6),
        ("at sequence 6, and the journal was at 7 before", 0, Held(90, 6), 7),
        ("no number", 0, Held(0, 0, problem="no number"), 0),
    ],
)
def test_what_cannot_be_is_told_at_first_sight(
    problem: str, drift: int, held: Held, floor: int
) -> None:
    found = at_first_sight(held, LEDGER, floor)

    assert isinstance(found, Difference)
    assert (True, drift) == (found.problem.endswith(problem), found.drift), found


@pytest.mark.parametrize(
    ("held", "recorded", "floor", "there"),
    [
        (Held(70, 7), LEDGER, 7, None),  # the journal leads there
        (Held(90, 6), LEDGER, 6, None),
        (Held(70, 7), Recorded(70, 7), 7, 70),  # recorded meanwhile
        (Held(70, 7), Recorded(10, 9), 7, 70),  # and charged and recorded again
        (Held(70, 7), Recorded(90, 6), 7, None),  # recorded in part
        (None, Recorded(70, 7), 7, None),  # cold, and recorded meanwhile
    ],
)
def test_at_second_sight_what_was_only_under_way_agrees(
    held: Held | None, recorded: Recorded, floor: int, there: int | None
) -> None:
    assert None is at_second_sight(held, recorded, floor, recorded_there=there, steps=STEPS)


@pytest.mark.parametrize(
    ("problem", "drift", "held", "recorded", "there", "steps"),
    [
        ("the journal has 0.000070 there", 5, Held(75, 7), LEDGER, None, STEPS),
        ("transaction 8 is neither there nor in the journal", 5, Held(75, 8), LEDGER, None, STEPS),
        ("the ledger has 0.000070 there", 5, Held(75, 7), Recorded(70, 7), 70, {}),
        ("has no such transaction", 0, Held(70, 7), Recorded(70, 7), None, {}),
        ("by -0.000010 and ends at 0.000090", 1, Held(90, 6), Recorded(101, 5), None, STEPS),
        ("transactions 6 to 7 that the ledger has not", 0, None, LEDGER, None, STEPS),
    ],
)
def test_at_second_sight_what_does_not_lead_there_is_told(
    problem: str,
    drift: int,
    held: Held | None,
    recorded: Recorded,
    there: int | None,
    steps: dict[int, Step],
) -> None:
    found = at_second_sight(held, recorded, 7, recorded_there=there, steps=steps)

    assert found is not None
    assert (True, drift) == (found.problem.endswith(problem), found.drift), found


def test_a_sequence_beyond_all_reason_is_answered_at_once() -> None:
    found = at_second_sight(Held(1, 10**15), LEDGER, 0, recorded_there=None, steps=STEPS)

    assert found is not None


HELD = Held(100, 5, reserved=7, entry=EntryId((2, 9)))


def test_what_is_reserved_is_told_where_the_ledger_has_passed_the_account() -> None:
    found = apart_in_holds(HELD, Recorded(100, 5, 6), EntryId((2, 9)), HELD)

    assert found is not None
    assert found.problem.endswith("0.000007 reserved at sequence 5, the ledger 0.000006")
    assert 0 == found.drift


@pytest.mark.parametrize(
    ("recorded", "position", "after"),
    [
        (7, (2, 9), HELD),  # equal
        (6, (2, 8), HELD),  # not recorded yet
        (6, (3, 0), HELD),  # repaired meanwhile
        (6, (2, 9), HELD._replace(entry=EntryId((2, 10)))),  # another hold
        (6, (2, 9), None),  # evicted
    ],
)
def test_what_is_reserved_agrees_or_is_under_way(
    recorded: int, position: tuple[int, int], after: Held | None
) -> None:
    assert apart_in_holds(HELD, Recorded(100, 5, recorded), EntryId(position), after) is None
