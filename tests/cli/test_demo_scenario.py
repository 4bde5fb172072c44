"""What the demo asks for: the same from the same seed, skewed like the real thing, and never nonsense."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import median

import pytest

from credits_fast.checks.samples import percentile
from credits_fast.cli.demo.scenario import (
    TIERS,
    Request,
    Scenario,
    TierMove,
    Tokens,
    config_text,
    draw_tokens,
    scenario,
)
from credits_fast.cli.demo.trace import COLUMNS, TraceError, read_trace
from credits_fast.config import CreditsConfig, load_config

HEAD = ",".join(COLUMNS)


def drawn(seed: int = 1, users: int = 200, requests: int = 5_000) -> Scenario:
    return scenario(seed, users, [*draw_tokens(seed, requests)])


def requests_of(found: Scenario) -> list[Request]:
    return [step for step in found.steps if isinstance(step, Request)]


def moves_of(found: Scenario) -> list[TierMove]:
    return [step for step in found.steps if isinstance(step, TierMove)]


@pytest.fixture
def config(tmp_path: Path) -> CreditsConfig:
    path = tmp_path / "credits.toml"
    path.write_text(config_text("demo"))
    return load_config(path)


def test_the_same_seed_gives_the_same_scenario() -> None:
    assert drawn(seed=7) == drawn(seed=7)


def test_another_seed_gives_another_scenario() -> None:
    assert drawn(seed=7).steps != drawn(seed=8).steps


def test_every_tier_has_users_and_most_are_in_the_lowest() -> None:
    tiers = Counter(person.tier for person in drawn().people)

    assert TIERS == tuple(sorted(tiers, key=TIERS.index))
    assert TIERS[0] == tiers.most_common(1)[0][0]


def test_a_few_users_make_most_requests() -> None:
    counts = Counter(request.user for request in requests_of(drawn()))
    busiest = sum(number for _, number in counts.most_common(20))

    assert busiest > sum(counts.values()) / 2


def test_sizes_are_skewed_and_bounded() -> None:
    inputs = [request.input_tokens for request in requests_of(drawn())]

    assert 1 <= min(inputs) <= max(inputs) <= 32_000
    assert sum(inputs) / len(inputs) > median(inputs)


def test_about_two_in_a_hundred_requests_are_repeated_under_keys_of_their_own() -> None:
    keys = [request.key for request in requests_of(drawn()) if request.key]

    assert len(set(keys)) == len(keys)
    assert 0.01 < len(keys) / 5_000 < 0.03


def test_a_user_changes_tier_at_most_once_and_in_the_right_direction() -> None:
    found = drawn()
    tiers = {person.id: TIERS.index(person.tier) for person in found.people}
    signs = {"upgrade": 1, "downgrade": -1, "renewal": 0}

    moves = moves_of(found)
    assert {"upgrade", "downgrade", "renewal"} == {move.move for move in moves}
    assert len({move.user for move in moves}) == len(moves)
    assert all(TIERS.index(m.target) == tiers[m.user] + signs[m.move] for m in moves)


def test_steps_stay_in_the_order_of_their_time() -> None:
    requests = [Tokens(float(second), 10, 10) for second in range(500)]
    times = [step.at for step in scenario(1, 100, requests).steps]

    assert sorted(times) == times


def test_a_scenario_without_requests_has_no_steps() -> None:
    assert () == scenario(1, 10, []).steps


def test_the_configuration_of_the_demo_is_valid_and_prices_each_tier_otherwise(
    config: CreditsConfig,
) -> None:
    prices = config.costs["completion"]

    assert () == config.warnings
    assert 3 == len({str(prices.get(tier, prices["default"])) for tier in TIERS})
    assert set(TIERS) == set(config.membership.tiers) == set(config.membership.credits_caps)


@pytest.mark.parametrize(
    ("expected", "percent"), [(1, 0), (1, 1), (50, 50), (99, 99), (100, 99.5), (100, 100)]
)
def test_a_percentile_is_one_of_the_samples(expected: int, percent: float) -> None:
    assert expected == percentile([*range(100, 0, -1)], percent)


def test_a_percentile_of_nothing_is_zero() -> None:
    assert 0 == percentile([], 99)


# --- traces -------------------------------------------------------------------------------------


def trace(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text)
    return path


def test_a_trace_is_read_with_times_from_its_first_request(tmp_path: Path) -> None:
    path = trace(
        tmp_path,
        f"{HEAD}\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:05.4799600,3180,8\n",
    )

    assert [Tokens(0.0, 4808, 10), Tokens(1.5, 3180, 8)] == read_trace(path)


@pytest.mark.parametrize(
    "text",
    [
        "TIMESTAMP,Model,GeneratedTokens,ContextTokens\n0,m,2,1\n60,m,4,3\n",
        f"\ufeff{HEAD}\n2024-01-01T00:00:00Z,1,2\n2024-01-01T01:01:00+01:00,3,4\n",
        f"{HEAD}\n2024-01-01 00:01:00,3,4\n2024-01-01 00:00:00,1,2\n",
    ],
    ids=["other columns, seconds", "zones", "out of order"],
)
def test_a_trace_may_look_otherwise(tmp_path: Path, text: str) -> None:
    assert [Tokens(0.0, 1, 2), Tokens(60.0, 3, 4)] == read_trace(trace(tmp_path, text))


def test_a_trace_is_read_no_further_than_asked(tmp_path: Path) -> None:
    path = trace(tmp_path, f"{HEAD}\n0,1,1\n1,2,2\nnonsense\n")

    assert 2 == len(read_trace(path, limit=2))


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("has no column TIMESTAMP, ContextTokens, GeneratedTokens", ""),
        ("has no column GeneratedTokens", "TIMESTAMP,ContextTokens\n"),
        ("has no requests", f"{HEAD}\n"),
        ("line 3: TIMESTAMP is no time", f"{HEAD}\n0,1,1\nhello,1,1\n"),
        ("line 2: TIMESTAMP is no time .* but empty", f"{HEAD}\n,1,1\n"),
        ("line 2: ContextTokens is no whole number .* but '-1'", f"{HEAD}\n0,-1,1\n"),
        ("line 2: ContextTokens is no whole number .* but '1.5'", f"{HEAD}\n0,1.5,1\n"),
        ("line 2: GeneratedTokens is no whole number .* but empty", f"{HEAD}\n0,1\n"),
        ("line 2: ContextTokens is no whole number", f"{HEAD}\n0,{'9' * 5_000},1\n"),
        ("line 2: TIMESTAMP is no time", f"{HEAD}\n{'9' * 400},1,1\n"),
    ],
)
def test_a_bad_trace_is_named_with_the_line(tmp_path: Path, expected: str, text: str) -> None:
    with pytest.raises(TraceError, match=expected) as caught:
        read_trace(trace(tmp_path, text))

    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(TraceError, match="not UTF-8"):
        read_trace(path)


@pytest.mark.parametrize("name", ["nowhere.csv", "."])
def test_what_is_no_file_is_no_trace(tmp_path: Path, name: str) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path / name)
