"""Readings and outcomes made up for tests: small, and different wherever a mix-up should be seen."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from credits_fast.benchmarks.plan import Plan
from credits_fast.benchmarks.product import Books
from credits_fast.benchmarks.proof import Proof, Rows
from credits_fast.benchmarks.readings import (
    ATOMIC,
    BESIDE_HOLD,
    CEILING,
    HOLD,
    NAIVE,
    OPEN_LOOP,
    PRODUCT,
    Carried,
    Contest,
    Cpu,
    Reading,
    Readings,
    Weights,
)
from credits_fast.benchmarks.run import Outcome
from credits_fast.benchmarks.workload import OPENING
from credits_fast.checks.balance_sheet import BalanceSheet, RedisComparison

SMALLEST = Plan(
    name="quick",
    rounds=2,
    users=20,
    callers=(64, 256),
    lone_calls=5,
    charges=250,
    baseline_charges=60,
    held=40,
    ceiling_items=2_500,
    atomic_charges=40,
    hot_charges=20,
    mixes=("one hot user", "without a key", "5 % refusals", "2 % replays"),
    mix_callers=256,
    open_loop_s=0.01,
    open_loop_max=50,
    backlog=200,
    recorded=200,
    populations=(40,),
    growth_charges=50,
    weighed=50,
    trace_max=10,
)

CIRCUMSTANCES: dict[str, Any] = {
    "date": "2026-01-15T12:00:00+00:00",
    "command": "credits-fast bench --set quick",
    "loop": "asyncio",
    "machine": {"cpu": "a <fast> one", "cores": 2},
    "versions": {"python": "CPython 3.11"},
}


def reading(per_s: float, *percentiles_ms: float) -> Reading:
    return Reading(100, per_s, 0.1, percentiles_ms or (1.0, 2.0, 3.0, 4.0))


def readings() -> Readings:
    """Two rounds of everything, a million users included."""
    found = Readings()
    rates: dict[Contest, tuple[float, float]] = {
        Contest(NAIVE, "uniform", 1): (900, 1_000),
        Contest(PRODUCT, "uniform", 1): (800, 1_000),
        Contest(NAIVE, "uniform", 64): (1_000, 2_000),
        Contest(PRODUCT, "uniform", 64): (3_000, 8_000),
        Contest(NAIVE, "uniform", 256): (1_000, 2_000),
        Contest(PRODUCT, "uniform", 256): (6_000, 10_000),
        Contest(HOLD, "uniform", 256): (3_000, 4_000),
        Contest(BESIDE_HOLD, "uniform", 256): (4_000, 8_000),
        Contest(CEILING, "uniform", 1): (5_000, 5_000),
        Contest(CEILING, "uniform", 64): (12_000, 20_000),
        Contest(ATOMIC, "uniform", 16): (600, 500),
        Contest(ATOMIC, "one hot user", 16): (100, 200),
        Contest(PRODUCT, "one hot user", 256): (3_000, 5_000),
    }
    for contest, values in rates.items():
        found.contests[contest] = [reading(value) for value in values]
    lone = Contest(PRODUCT, "uniform", 1)
    found.contests[lone] = [reading(800, 1.1, 2, 3, 4), reading(1_000, 1.3, 2, 3, 4)]
    loop = Contest(PRODUCT, OPEN_LOOP, 0)
    found.contests[loop] = [reading(3_000, 1, 2, 5.5, 8), reading(5_000, 1, 2, 3.9, 8)]
    cpu = Cpu(1.0, 2.0, 3.0, 4.0)
    lag = [(0.1, 10.0), (0.2, 20.0), (0.3, 30.0)]
    found.carried = [Carried(100_000, 5_000, 0.5, lag, cpu), Carried(100_000, 7_000, 0.7, lag, cpu)]
    found.weights = [Weights(120, 190, 150), Weights(130, 195, 155)]
    found.sync_per_s, found.copy_per_s = [8_000, 9_000], [10_000, 10_000]
    found.growth[1_000_000] = [(1_000, 900), (1_000, 800)]
    return found


def proof(*problems: str) -> Proof:
    books = Books(charges=5, reservations=3, keyed=4, credits=Decimal(5), replays=1, refusals=2)
    sheet = BalanceSheet(
        opening=Decimal(2 * OPENING),
        granted=Decimal(0),
        refunded=Decimal(0),
        charged=Decimal(5),
        tier_changes=Decimal(0),
        balances=Decimal(2 * OPENING - 5),
        users=2,
        transactions=5,
        audit_entries=7,
    )
    redis = RedisComparison(users=2, compared=2)
    rows = Rows(distinct=5, succeeded=8, failed=2, remembered=4)
    return Proof([*problems], books, rows, sheet, redis, {NAIVE: 0})


def outcome(*problems: str) -> Outcome:
    facts = {"redis": "Valkey 9", "database": "PostgreSQL 18"}
    return Outcome(SMALLEST, readings(), proof(*problems), facts, 12.3456, ["a note"])
