"""Figures say what their names say; what was not measured is none of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from credits_fast.benchmarks.figures import FIGURES, figures
from credits_fast.benchmarks.loops import Answered
from credits_fast.benchmarks.readings import (
    CEILING,
    HOLD,
    PRODUCT,
    Contest,
    Cpu,
    Reading,
    Readings,
)
from tests.benchmarks.outcomes import readings

EXPECTED = {
    "ratio_vs_redis_py_64": (3.0, 4.0),
    "ratio_vs_redis_py_256": (6.0, 5.0),
    "ratio_vs_redis_py_1024": None,
    "ratio_vs_postgres_atomic": (10.0, 20.0),
    "ratio_vs_postgres_hot_user": (30.0, 25.0),
    "ratio_hold_vs_charge": (0.75, 0.5),
    "ratio_vs_server_ceiling_1": (1.2, 2.0),
    "ratio_vs_server_ceiling_64": (0.5, 0.5),
    "lone_call_overhead": (1.1, 1.3),
    "lone_call_p50_ms": (1.1, 1.3),
    "max_charges_per_s": (6_000, 10_000),
    "open_loop_rate_per_s": (3_000, 5_000),
    "open_loop_p50_ms": (1, 1),
    "open_loop_p95_ms": (2, 2),
    "open_loop_p99_ms": (5.5, 3.9),
    "open_loop_p99_9_ms": (8, 8),
    "p99_open_loop_over_lone_p50": (5.0, 3.0),
    "sync_per_s": (8_000, 9_000),
    "copy_floor_per_s": (10_000, 10_000),
    "sync_ratio_vs_copy_floor": (0.8, 0.9),
    "end_to_end_recorded_per_s": (5_000, 7_000),
    "drain_s": (0.5, 0.7),
    "lag_p50_ms": (20, 20),
    "lag_p99_ms": (30, 30),
    "cpu_s_per_million.client": (10, 10),
    "cpu_s_per_million.redis": (20, 20),
    "cpu_s_per_million.worker": (30, 30),
    "cpu_s_per_million.sql": (40, 40),
    "cpu_s_per_million.total": (100, 100),
    "bytes_per_account": (120, 130),
    "bytes_per_idempotency_key": (190, 195),
    "bytes_per_journal_entry": (150, 155),
    "ratio_million_users": (0.9, 0.8),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_made_of_the_readings_its_name_says(name: str) -> None:
    found = figures(readings())[name]

    assert EXPECTED[name] == (None if found is None else pytest.approx(found.rounds))


def test_a_run_that_measured_nothing_has_no_figure() -> None:
    assert dict.fromkeys(FIGURES) == figures(Readings())


def _without_sql(found: Readings) -> None:
    blind = [replace(one, cpu=Cpu(1.0, 2.0, 3.0, None)) for one in found.carried]
    found.carried = blind


def _without_holds(found: Readings) -> None:
    del found.contests[Contest(HOLD, "uniform", 256)]


def _without_ceiling(found: Readings) -> None:
    del found.contests[Contest(CEILING, "uniform", 1)]


@pytest.mark.parametrize(
    ("missing", "lose"),
    [
        ({"cpu_s_per_million.sql", "cpu_s_per_million.total"}, _without_sql),
        ({"ratio_hold_vs_charge"}, _without_holds),
        ({"ratio_vs_server_ceiling_1"}, _without_ceiling),
    ],
)
def test_what_was_not_measured_takes_only_what_needs_it(
    missing: set[str], lose: Callable[[Readings], None]
) -> None:
    found = readings()
    lose(found)

    before = {name for name, value in figures(readings()).items() if value is None}
    assert missing == {name for name, value in figures(found).items() if value is None} - before


@pytest.mark.parametrize(
    ("expected", "name", "value"),
    [
        (True, "ratio_vs_redis_py_256", 4.0),
        (False, "ratio_vs_redis_py_256", 3.9),
        (True, "lone_call_overhead", 1.15),
        (False, "lone_call_overhead", 1.2),
        (True, "ratio_hold_vs_charge", 0.45),
        (False, "ratio_hold_vs_charge", 0.44),
        (None, "drain_s", 9.0),
    ],
)
def test_a_goal_is_reached_at_its_edge(expected: object, name: str, value: float) -> None:
    assert expected == FIGURES[name].is_reached(value)


def test_a_reading_has_a_rate_and_the_percentiles_of_its_latencies() -> None:
    answered = Answered[None](2.0, 0.5, [float(ms) for ms in range(1_000, 0, -1)])
    found = Reading.of(answered)

    assert (1_000, 500.0, 0.5) == (found.number, found.per_s, found.cpu_s)
    assert (500.0, 950.0, 990.0, 999.0) == found.percentiles_ms
    assert 990 == found.at(99.0)


def test_the_best_rate_is_of_each_round_whoever_had_it() -> None:
    found = readings()
    few, many = (Contest(PRODUCT, "uniform", callers) for callers in (64, 256))
    found.contests[few][0], found.contests[many][0] = (
        found.contests[many][0],
        found.contests[few][0],
    )
    best = figures(found)["max_charges_per_s"]

    assert best is not None
    assert (6_000, 10_000) == best.rounds
