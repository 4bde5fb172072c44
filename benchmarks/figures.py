"""From readings to the figures that are reported, each with its meaning and what it is to reach. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Final

from credits_fast.benchmarks.readings import (
    ATOMIC,
    BESIDE_HOLD,
    CEILING,
    HOLD,
    NAIVE,
    OPEN_LOOP,
    PERCENTS,
    PRODUCT,
    Contest,
    Readings,
)
from credits_fast.benchmarks.spread import Spread
from credits_fast.checks.samples import percentile

if TYPE_CHECKING:
    from credits_fast.benchmarks.readings import Carried

__all__ = ["CPU_PARTS", "FIGURES", "Figure", "figures", "percent_name"]

MILLION: Final = 1_000_000
CPU_PARTS: Final = ("client", "redis", "worker", "sql", "total")
_CPU: Final = "cpu_s_per_million"
_ONE, _SPREAD, _BATCH = 1, "uniform", 64


@dataclass(frozen=True, slots=True)
class Figure:
    """What a figure means.

    Attributes:
        meaning: In a few words.
        unit: What it counts, "" for a ratio.
        least: It is to be at least this.
        most: It is to be at most this.
    """

    meaning: str
    unit: str = ""
    least: float | None = None
    most: float | None = None

    @property
    def goal(self) -> str:
        """What is to be reached, for people; "" where nothing is."""
        if self.least is not None:
            return f"at least {self.least:g}"
        return "" if self.most is None else f"at most {self.most:g}"

    def is_reached(self, value: float) -> bool | None:
        """Whether a median is as good as it is to be; None where nothing is to be reached."""
        if self.least is not None:
            return value >= self.least
        return None if self.most is None else value <= self.most


FIGURES: Final[Mapping[str, Figure]] = {
    "ratio_vs_redis_py_64": Figure("charges/s over redis-py `await evalsha`, 64 callers"),
    "ratio_vs_redis_py_256": Figure("the same, 256 callers", least=4),
    "ratio_vs_redis_py_1024": Figure("the same, 1,024 callers"),
    "ratio_vs_postgres_atomic": Figure(
        "charges/s of 256 callers over the atomic PostgreSQL statement", least=8
    ),
    "ratio_vs_postgres_hot_user": Figure("the same, every charge on one hot user", least=25),
    "ratio_hold_vs_charge": Figure(
        "reserve and capture a second over charges/s, 256 callers", least=0.45
    ),
    "ratio_vs_server_ceiling_1": Figure(
        "best charges/s over what the server does with one item a script call", least=1
    ),
    "ratio_vs_server_ceiling_64": Figure("the same, 64 items a script call", least=0.7),
    "lone_call_overhead": Figure("p50 of a lone call over redis-py's", most=1.15),
    "lone_call_p50_ms": Figure("p50 of a lone call", "ms"),
    "max_charges_per_s": Figure("best charges/s over the numbers of callers", "/s"),
    "open_loop_rate_per_s": Figure("calls begun in the open loop: half of the best", "/s"),
    "open_loop_p50_ms": Figure("latency at half of the best rate, waiting included", "ms"),
    "open_loop_p95_ms": Figure("the same", "ms"),
    "open_loop_p99_ms": Figure("the same", "ms"),
    "open_loop_p99_9_ms": Figure("the same", "ms"),
    "p99_open_loop_over_lone_p50": Figure("p99 at half of the best rate over a lone p50", most=5),
    "sync_per_s": Figure("charges one worker carries into PostgreSQL out of a backlog", "/s"),
    "copy_floor_per_s": Figure("COPY of the very same rows", "/s"),
    "sync_ratio_vs_copy_floor": Figure("the one over the other", least=0.8),
    "end_to_end_recorded_per_s": Figure("charges made and recorded at once, all in all", "/s"),
    "drain_s": Figure("from the last answer until all is recorded", "s"),
    "lag_p50_ms": Figure("from an answer until it is recorded, the slowest partition", "ms"),
    "lag_p99_ms": Figure("the same", "ms"),
    **{f"{_CPU}.{part}": Figure("CPU per million recorded charges", "s") for part in CPU_PARTS},
    "bytes_per_account": Figure("memory in Redis of a charged, recorded account", "B", most=200),
    "bytes_per_idempotency_key": Figure("memory in Redis of a remembered key", "B", most=200),
    "bytes_per_journal_entry": Figure("memory in Redis of an entry with one charge", "B"),
    "ratio_million_users": Figure("charges/s with a million users over a thousand", least=0.85),
}


def figures(readings: Readings) -> dict[str, Spread | None]:
    """Every figure of `FIGURES`, None for what was not measured."""
    found: dict[str, Spread | None] = dict.fromkeys(FIGURES)
    found |= _throughput(readings)
    found |= _latency(readings, found["max_charges_per_s"])
    found |= _recording(readings)
    found |= _memory(readings)
    growth = readings.growth.get(MILLION)
    if growth:
        found["ratio_million_users"] = Spread(tuple(many / few for few, many in growth))
    return found


def percent_name(percent: float) -> str:
    """A percentile's name.

    Example:
        >>> percent_name(99.9)
        'p99_9'
    """
    return "p" + f"{percent:g}".replace(".", "_")


def _throughput(readings: Readings) -> dict[str, Spread | None]:
    found: dict[str, Spread | None] = {}
    for callers in (64, 256, 1_024):
        ours, theirs = (readings.per_s(Contest(who, _SPREAD, callers)) for who in (PRODUCT, NAIVE))
        found[f"ratio_vs_redis_py_{callers}"] = _ratio(ours, theirs)
    for name, workload in (("atomic", _SPREAD), ("hot_user", "one hot user")):
        ours = _largest(readings, workload, {256})
        theirs = _only(readings, ATOMIC, workload)
        found[f"ratio_vs_postgres_{name}"] = _ratio(ours, theirs)
    held, charged = (readings.per_s(Contest(who, _SPREAD, 256)) for who in (HOLD, BESIDE_HOLD))
    found["ratio_hold_vs_charge"] = _ratio(held, charged)
    best = _largest(readings, _SPREAD)
    found["max_charges_per_s"] = best
    for items in (_ONE, _BATCH):
        ceiling = readings.per_s(Contest(CEILING, _SPREAD, items))
        found[f"ratio_vs_server_ceiling_{items}"] = _ratio(best, ceiling)
    return found


def _latency(readings: Readings, best: Spread | None) -> dict[str, Spread | None]:
    ours, theirs = (readings.latency_ms(Contest(who, _SPREAD, 1), 50.0) for who in (PRODUCT, NAIVE))
    loop = Contest(PRODUCT, OPEN_LOOP, 0)
    is_open = loop in readings.contests and best is not None
    return {
        "lone_call_overhead": _ratio(ours, theirs),
        "lone_call_p50_ms": ours,
        "open_loop_rate_per_s": best.map(lambda rate: rate / 2) if best and is_open else None,
        **{
            f"open_loop_{percent_name(percent)}_ms": readings.latency_ms(loop, percent)
            for percent in PERCENTS
        },
        "p99_open_loop_over_lone_p50": _ratio(readings.latency_ms(loop, 99.0), ours),
    }


def _recording(readings: Readings) -> dict[str, Spread | None]:
    sync, copy = _spread(readings.sync_per_s), _spread(readings.copy_per_s)
    found = {
        "sync_per_s": sync,
        "copy_floor_per_s": copy,
        "sync_ratio_vs_copy_floor": _ratio(sync, copy),
        "end_to_end_recorded_per_s": _spread(one.recorded_per_s for one in readings.carried),
        "drain_s": _spread(one.drain_s for one in readings.carried),
    }
    for percent in (50, 99):
        found[f"lag_p{percent}_ms"] = _spread(_lag(one, percent) for one in readings.carried)
    for part in CPU_PARTS:
        spent = [getattr(one.cpu.per_million(one.number), part) for one in readings.carried]
        found[f"{_CPU}.{part}"] = _spread(spent)
    return found


def _memory(readings: Readings) -> dict[str, Spread | None]:
    weights = readings.weights
    return {
        "bytes_per_account": _spread(one.account for one in weights),
        "bytes_per_idempotency_key": _spread(one.idempotency_key for one in weights),
        "bytes_per_journal_entry": _spread(one.journal_entry for one in weights),
    }


def _largest(readings: Readings, workload: str, callers: set[int] | None = None) -> Spread | None:
    """The product's best rate of each round, over so many callers or any number of them."""
    rates = [
        rate
        for contest in readings.contests
        if contest.who == PRODUCT
        and contest.workload == workload
        and (callers is None or contest.callers in callers)
        and (rate := readings.per_s(contest)) is not None
    ]
    return reduce(Spread.best, rates) if rates else None


def _only(readings: Readings, who: str, workload: str) -> Spread | None:
    """The rate of a contestant that is measured at one number of callers."""
    for contest in readings.contests:
        if (contest.who, contest.workload) == (who, workload):
            return readings.per_s(contest)
    return None


def _lag(carried: Carried, percent: float) -> float:
    return percentile([milliseconds for _, milliseconds in carried.lag], percent)


def _ratio(one: Spread | None, other: Spread | None) -> Spread | None:
    return one.over(other) if one and other else None


def _spread(values: Iterable[float | None]) -> Spread | None:
    """The rounds, None where there are none or one of them could not be measured."""
    known = [*values]
    rounds = tuple(value for value in known if value is not None)
    return Spread(rounds) if rounds and len(rounds) == len(known) else None
