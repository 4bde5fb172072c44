"""How much a set measures: rounds, users, callers, and a bound on every count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["PLANS", "QUICK", "STANDARD", "Plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One set.

    Attributes:
        name: What it is called.
        rounds: How often every measurement is repeated.
        users: How many users most of it charges.
        callers: Numbers of concurrent callers, beside a lone one.
        lone_calls: Calls of a lone caller in a turn.
        charges: Charges of the product in a turn of one measurement.
        baseline_charges: The same of redis-py, which has several turns in a round.
        held: Reservations with their captures in a round, by `mix_callers`.
        ceiling_items: Items the server decides in a round for its ceiling.
        atomic_charges: Charges by the atomic statement in a round, spread over users.
        hot_charges: The same on one hot user.
        mixes: Workloads beside the uniform one, each measured at `mix_callers`.
        mix_callers: Concurrent callers of those workloads, of the trace, of holds, and of everything
            recorded; one of `callers`.
        open_loop_s: Seconds an open loop lasts.
        open_loop_max: Calls it makes at most.
        backlog: Charges a worker drains in a round.
        recorded: Charges in a round of charging and recording at once.
        populations: Numbers of users that are compared with `users`, rising.
        growth_charges: Charges on each side of that comparison in a round.
        weighed: Accounts, records and entries that are weighed in a round.
        trace_max: Requests of a trace at most.
    """

    name: str
    rounds: int
    users: int
    callers: tuple[int, ...]
    lone_calls: int
    charges: int
    baseline_charges: int
    held: int
    ceiling_items: int
    atomic_charges: int
    hot_charges: int
    mixes: tuple[str, ...]
    mix_callers: int
    open_loop_s: float
    open_loop_max: int
    backlog: int
    recorded: int
    populations: tuple[int, ...]
    growth_charges: int
    weighed: int
    trace_max: int

    def sections(self, *, has_trace: bool) -> int:
        """How many measurements there are in all."""
        contests = 1 + len(self.callers) + 1 + 4 + len(self.mixes) + 1 + has_trace
        return self.rounds * (contests + 4 + 2 * len(self.populations))


STANDARD: Final = Plan(
    name="standard",
    rounds=5,
    users=1_000,
    callers=(64, 256, 1_024),
    lone_calls=1_500,
    charges=15_000,
    baseline_charges=10_000,
    held=24_000,
    ceiling_items=40_000,
    atomic_charges=6_000,
    hot_charges=2_500,
    mixes=("zipf", "one hot user", "without a key", "5 % refusals", "2 % replays"),
    mix_callers=256,
    open_loop_s=1.5,
    open_loop_max=100_000,
    backlog=40_000,
    recorded=30_000,
    populations=(10_000, 100_000, 1_000_000),
    growth_charges=12_000,
    weighed=10_000,
    trace_max=10_000,
)
QUICK: Final = Plan(
    name="quick",
    rounds=3,
    users=1_000,
    callers=(64, 256),
    lone_calls=500,
    charges=5_000,
    baseline_charges=4_000,
    held=6_000,
    ceiling_items=8_000,
    atomic_charges=2_000,
    hot_charges=800,
    mixes=("one hot user",),
    mix_callers=256,
    open_loop_s=0.5,
    open_loop_max=20_000,
    backlog=5_000,
    recorded=4_000,
    populations=(10_000,),
    growth_charges=4_000,
    weighed=4_000,
    trace_max=3_000,
)
PLANS: Final = {plan.name: plan for plan in (STANDARD, QUICK)}
