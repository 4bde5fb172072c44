"""What stays in a journal: for a while, within a bound, whoever has recorded it."""

from __future__ import annotations

import pytest

from credits_fast.sync.retention import Retention


def retention(*, retain_max: int = 100) -> Retention:
    return Retention(retain_ms=10_000, retain_max=retain_max, begun_s=0.0)


def test_nothing_is_dropped_before_it_is_known_how_long_the_journal_is() -> None:
    ours = retention(retain_max=1)
    ours.record("1-5", 5, 1.0)

    assert "0-0" == ours.keep_from(1_000.0)

    ours.find(5)

    assert "1-5" == ours.keep_from(1_000.0)


def test_what_stood_there_before_counts_as_recorded_when_we_began() -> None:
    ours = retention()
    ours.record("1-42", 2, 1.0)
    ours.find(42)

    assert ["0-0", "0-0", "1-42"] == [ours.keep_from(at) for at in (1.0, 10.9, 11.0)]


def test_the_newest_batch_that_is_old_enough_is_kept_from() -> None:
    ours = retention()
    ours.find(0)
    for at in range(1, 6):
        ours.record(f"1-{at}", 1, float(at))

    assert ["0-0", "1-1", "1-3", "1-5"] == [ours.keep_from(at) for at in (10, 11, 13.5, 99)]


@pytest.mark.parametrize(
    ("retain_max", "expected"), [(1, "1-20"), (6, "1-15"), (10, "1-15"), (11, "1-10"), (21, "0-0")]
)
def test_so_many_entries_stay_and_no_more(retain_max: int, expected: str) -> None:
    ours = retention(retain_max=retain_max)
    ours.record("1-5", 5, 1.0)
    ours.find(6)
    for last in (10, 15, 20):
        ours.record(f"1-{last}", 5, 1.0)

    assert expected == ours.keep_from(1.0)


def test_a_journal_that_was_too_long_when_we_began_is_cut_at_once() -> None:
    ours = retention(retain_max=10)
    ours.record("1-5", 5, 1.0)
    ours.find(1_000)
    ours.record("1-9", 4, 1.0)

    assert "1-5" == ours.keep_from(1.0)
