"""The document has every figure with its rounds; the page shows them and needs nothing else."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree as ET

import pytest

from credits_fast.benchmarks.document import document, rounded, thinned
from credits_fast.benchmarks.figures import FIGURES
from credits_fast.benchmarks.page import page
from credits_fast.benchmarks.plots import Line, line_plot, stacked_bars, ticks
from credits_fast.cli.output import as_json
from tests.benchmarks.outcomes import CIRCUMSTANCES, outcome

DEMANDED = {
    *("ratio_vs_redis_py_64", "ratio_vs_redis_py_256"),
    *("ratio_vs_postgres_atomic", "ratio_vs_postgres_hot_user"),
    *("ratio_vs_server_ceiling_1", "ratio_vs_server_ceiling_64", "lone_call_overhead"),
    *("ratio_hold_vs_charge", "sync_ratio_vs_copy_floor", "end_to_end_recorded_per_s"),
    *("bytes_per_account", "bytes_per_idempotency_key", "bytes_per_journal_entry"),
    *("cpu_s_per_million", "p99_open_loop_over_lone_p50", "ratio_million_users"),
}


def test_every_figure_is_in_the_document_with_its_rounds() -> None:
    made = json.loads(as_json(document(outcome(), CIRCUMSTANCES)))

    assert made.keys() >= DEMANDED
    assert made["spread"].keys() == FIGURES.keys()
    assert {"median": 3.5, "minimum": 3.0, "maximum": 4.0, "rounds": [3.0, 4.0]} == made["spread"][
        "ratio_vs_redis_py_64"
    ]
    assert 3.5 == made["ratio_vs_redis_py_64"]
    assert {"client": 10, "redis": 20, "worker": 30, "sql": 40, "total": 100} == made[
        "cpu_s_per_million"
    ]
    assert (None, None) == (
        made["ratio_vs_redis_py_1024"],
        made["spread"]["ratio_vs_redis_py_1024"],
    )
    assert {"goal": "at least 4", "reached": True} == made["goals"]["ratio_vs_redis_py_256"]


def test_the_proof_stands_in_the_document_with_its_denominators() -> None:
    good, bad = (document(outcome(*problems), CIRCUMSTANCES) for problems in ((), ("it is off",)))

    assert (True, []) == (good["verified"], good["problems"])
    assert (False, ["it is off"]) == (bad["verified"], bad["problems"])
    assert (5, 5, 2, 2) == tuple(
        good["proof"][name]
        for name in (
            *("charges_acknowledged", "charges_in_the_ledger"),
            *("refusals_answered", "redis_users_compared"),
        )
    )


def test_the_page_shows_every_figure_and_asks_for_nothing_from_elsewhere() -> None:
    made = page(json.loads(as_json(document(outcome(), CIRCUMSTANCES))))

    assert all(f"<code>{name}</code>" in made for name in FIGURES)
    assert [] == re.findall(r"(?:src|href)=|@import|url\(|<script", made)
    assert 5 == made.count("<svg ")
    assert "a &lt;fast&gt; one" in made


@pytest.mark.parametrize("problems", [(), ("<b> is off",)])
def test_the_page_says_whether_the_sums_agree(problems: tuple[str, ...]) -> None:
    made = page(json.loads(as_json(document(outcome(*problems), CIRCUMSTANCES))))

    assert ("All sums agree" in made) is not bool(problems)
    assert ("&lt;b&gt; is off" in made) is bool(problems)


@pytest.mark.parametrize(
    "plot",
    [
        line_plot([Line("a", [(0, 1), (1, 3)], [(1, 2), (2, 4)])], x_title="x", y_title="y"),
        line_plot([], x_title="x", y_title="y"),
        line_plot([Line("<b", [(0, 0.1)])], x_title="&", y_title="y", names=["64"], is_log=True),
        stacked_bars([("a", (1.0, 2.0))], ("<p>", "q"), "s"),
        stacked_bars([], (), "s"),
    ],
)
def test_a_plot_is_well_formed_whatever_it_is_given(plot: str) -> None:
    whole = ET.fromstring(f"<div>{plot}</div>")  # noqa: S314  # our own text

    assert ["svg", "ul"] == [part.tag for part in whole]
    assert "nan" not in plot


def test_a_higher_value_is_drawn_higher_up() -> None:
    svg = line_plot([Line("a", [(0, 10), (1, 20)])], x_title="x", y_title="y")
    found = re.search(r'points="([\d.]+),([\d.]+) ([\d.]+),([\d.]+)"', svg)

    assert found is not None
    left, low, right, high = map(float, found.groups())
    assert (True, True) == (left < right, low > high)


def test_bars_are_as_long_as_their_parts_are_large() -> None:
    svg = stacked_bars([("a", (10.0, 30.0))], ("p", "q"), "s")
    found = re.findall(r'x="([\d.]+)" y="\d+" width="([\d.]+)" height="34"', svg)
    (first, width), (second, other) = ((float(x), float(wide)) for x, wide in found)

    assert other == pytest.approx(3 * width, rel=0.01)
    assert second == pytest.approx(first + width, abs=0.2)


@pytest.mark.parametrize(
    ("expected", "highest"), [([0, 1], 0.0), ([0, 0.5, 1, 1.5, 2, 2.5], 2.5), ([0, 20, 40], 40)]
)
def test_ticks_are_round_and_reach_the_highest_value(expected: list[float], highest: float) -> None:
    found = ticks(highest)

    assert expected[-1] <= found[-1]
    assert set(expected) <= {*found} | {*expected[1:-1]}
    assert len(found) <= 7


def test_thinning_keeps_the_last_point_and_a_bounded_number() -> None:
    points = [(float(number), 0.0) for number in range(10_001)]

    assert (10_000.0, 0.0) == thinned(points)[-1]
    assert len(thinned(points)) <= 400
    assert points[:3] == thinned(points[:3])
    assert [] == thinned([])


def test_a_value_has_four_digits_and_no_more() -> None:
    assert (63_120.0, 0.1235, 0.0) == (rounded(63_123.4), rounded(0.123456), rounded(0.0))
