"""Workloads ask for what their names say, and never use a key twice by accident."""

from __future__ import annotations

from collections import Counter
from math import isclose

import pytest

from credits_fast.benchmarks.arrivals import arrivals, number_within
from credits_fast.benchmarks.workload import (
    CHARGED,
    PRICES,
    WORKLOADS,
    Workload,
    draw,
    draw_trace,
)

NUMBER = 20_000


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=lambda one: one.name)
def test_the_same_tag_draws_the_same(workload: Workload) -> None:
    first, second, other = (draw(workload, tag, users=50, number=200) for tag in "aab")

    assert first == second
    assert first != other or not workload.is_keyed
    assert {one.action for one in first} <= {*PRICES}


def test_a_key_is_used_once_in_a_draw_and_in_no_other() -> None:
    keys = [
        one.key for tag in "ab" for one in draw(WORKLOADS["uniform"], tag, users=50, number=500)
    ]

    assert 1_000 == len({*keys})


def test_uniform_users_are_all_asked_about_alike() -> None:
    requests = draw(WORKLOADS["uniform"], "a", users=20, number=NUMBER)
    counts = Counter(one.user for one in requests)

    assert 20 == len(counts)
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_by_zipf_the_second_user_is_asked_about_half_as_often() -> None:
    requests = draw(WORKLOADS["zipf"], "a", users=100, number=NUMBER)
    counts = Counter(one.user for one in requests)

    assert ["user-1", "user-2"] == [user for user, _ in counts.most_common(2)]
    assert isclose(counts["user-2"] / counts["user-1"], 0.5, rel_tol=0.15)
    assert isclose(counts["user-4"] / counts["user-1"], 0.25, rel_tol=0.2)


def test_a_hot_user_is_the_only_one() -> None:
    requests = draw(WORKLOADS["one hot user"], "a", users=100, number=50)

    assert {"user-1"} == {one.user for one in requests}


def test_without_keys_there_are_none() -> None:
    requests = draw(WORKLOADS["without a key"], "a", users=100, number=50)

    assert {None} == {one.key for one in requests}


def test_five_in_a_hundred_cannot_be_paid() -> None:
    requests = draw(WORKLOADS["5 % refusals"], "a", users=100, number=NUMBER)
    share = sum(one.action != CHARGED for one in requests) / NUMBER

    assert isclose(share, 0.05, rel_tol=0.15)


def test_two_in_a_hundred_repeat_an_earlier_request_with_its_key() -> None:
    requests = draw(WORKLOADS["2 % replays"], "a", users=100, number=NUMBER)
    different = {one.key: one for one in requests}

    assert isclose(1 - len(different) / NUMBER, 0.02, rel_tol=0.2)
    assert all(one == different[one.key] for one in requests)


def test_a_trace_is_charged_by_its_tokens_in_its_order() -> None:
    requests = draw_trace([(900, 350), (1, 2)], "a", users=10)

    assert [{"input": 900, "output": 350}, {"input": 1, "output": 2}] == [
        one.variables for one in requests
    ]
    assert {"by-tokens"} == {one.action for one in requests}
    assert 2 == len({one.key for one in requests})


def test_arrivals_are_evenly_apart_and_do_not_drift() -> None:
    begins = arrivals(30_000, 90_000)

    assert (0.0, 90_000) == (begins[0], len(begins))
    assert isclose(3.0, begins[-1] + 1 / 30_000)
    assert begins == sorted(begins)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_is_above_zero(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        arrivals(rate, 1)


@pytest.mark.parametrize(("expected", "rate"), [(500, 1_000), (600, 1e9), (1, 0.001)])
def test_an_open_loop_makes_a_bounded_number_of_calls(expected: int, rate: float) -> None:
    assert expected == number_within(rate, 0.5, most=600)
