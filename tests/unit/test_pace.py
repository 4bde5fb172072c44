"""How much is carried at once: it follows the backlog, within a bound, and is shared fairly."""

from __future__ import annotations

import pytest

from credits_fast.sync.pace import COMMIT_ITEMS_MAX, ITEM_BYTES_MAX, Pace, shares
from credits_fast.sync.rows import Batch


def read(items: int, *, entries: int = 1, size: int = 1) -> Batch:
    return Batch(0, entries=entries, items=items, bytes=size)


def test_a_batch_doubles_while_more_waits_up_to_what_is_configured() -> None:
    pace = Pace(most=2_000)
    sizes = [pace.items]
    for _ in range(4):
        pace.learn(read(sizes[-1]), more_waits=True)
        sizes.append(pace.items)

    assert [256, 512, 1_024, 2_000, 2_000] == sizes
    assert pace.is_behind


def test_a_batch_shrinks_again_when_nothing_more_waits() -> None:
    pace = Pace(most=2_000, items=0)
    pace.items = 2_000
    sizes: list[int] = []
    for _ in range(4):
        pace.learn(read(0, entries=0), more_waits=False)
        sizes.append(pace.items)

    assert [1_000, 500, 256, 256] == sizes
    assert not pace.is_behind


def test_a_small_configured_maximum_is_kept() -> None:
    pace = Pace(most=10)
    pace.learn(read(10), more_waits=True)

    assert 10 == pace.items


@pytest.mark.parametrize(
    ("items", "entries", "size", "expected"),
    [
        (1_000, 100, 1, 40),  # ten items an entry
        (100, 100, 1, 400),
        (0, 0, 0, 25),  # nothing was read: the first guess stands
        (100, 100, 100 * 10 * ITEM_BYTES_MAX, 40),  # long entries: fewer of them
        (100_000, 100, 1, 1),  # always one, however large
    ],
)
def test_entries_are_asked_for_by_what_the_last_ones_were_like(
    items: int, entries: int, size: int, expected: int
) -> None:
    pace = Pace(most=2_000)
    pace.learn(read(items, entries=entries, size=size), more_waits=False)

    assert expected == pace.entries(400)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], []),
        ([256] * 16, [256] * 16),
        ([2_000] * 16, [COMMIT_ITEMS_MAX // 16] * 16),
        ([256] * 15 + [2_000], [256] * 15 + [2_000]),  # a hot partition has what others leave
        ([2_000, 256, 8_000], [2_000, 256, 5_744]),
    ],
)
def test_what_is_carried_at_once_is_shared_fairly(wanted: list[int], expected: list[int]) -> None:
    assert expected == shares(wanted, COMMIT_ITEMS_MAX)


def test_every_partition_has_its_turn_however_many_there_are() -> None:
    assert {1} == {*shares([256] * 100, 50)}
