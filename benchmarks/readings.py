"""What a run found, as values: readings of sections, of the worker, of memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from credits_fast.benchmarks.spread import Spread
from credits_fast.checks.samples import percentile

if TYPE_CHECKING:
    from credits_fast.benchmarks.loops import Answered

__all__ = [
    "ATOMIC",
    "BESIDE_HOLD",
    "CEILING",
    "COPY",
    "HOLD",
    "NAIVE",
    "OPEN_LOOP",
    "PERCENTS",
    "PRODUCT",
    "Carried",
    "Contest",
    "Cpu",
    "Reading",
    "Readings",
    "Weights",
]

PRODUCT: Final = "credits-fast"
HOLD: Final = "credits-fast, reserve and capture"
BESIDE_HOLD: Final = "credits-fast, in turns with holds"
NAIVE: Final = "redis-py evalsha"
ATOMIC: Final = "PostgreSQL atomic"
CEILING: Final = "server ceiling"
COPY: Final = "PostgreSQL COPY"
OPEN_LOOP: Final = "open loop"

PERCENTS: Final = (50.0, 95.0, 99.0, 99.9)


class Contest(NamedTuple):
    """Something that is measured once a round.

    Attributes:
        who: The contestant.
        workload: What it is asked for.
        callers: How many at once; items a call for the ceiling; 0 in an open loop.
    """

    who: str
    workload: str
    callers: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What one section gave.

    Attributes:
        number: Charges.
        per_s: Charges a second.
        cpu_s: CPU time of this process meanwhile.
        percentiles_ms: Latency at each of `PERCENTS`; empty where calls were not timed one by one.
    """

    number: int
    per_s: float
    cpu_s: float = 0.0
    percentiles_ms: tuple[float, ...] = ()

    @classmethod
    def of(cls, answered: Answered[Any]) -> Reading:
        """The reading of a loop."""
        number = len(answered.latencies_ms)
        ordered = sorted(answered.latencies_ms)
        return cls(
            number,
            number / answered.seconds,
            answered.cpu_s,
            tuple(percentile(ordered, percent) for percent in PERCENTS),
        )

    def at(self, percent: float) -> float:
        """The latency at one of `PERCENTS`, in milliseconds."""
        return self.percentiles_ms[PERCENTS.index(percent)]


class Cpu(NamedTuple):
    """CPU seconds by process; None where they cannot be told, as on another machine."""

    client: float
    redis: float | None
    worker: float | None
    sql: float | None

    def per_million(self, number: int) -> Cpu:
        """The same for a million charges instead of so many."""
        return Cpu(*(None if part is None else part * 1_000_000 / number for part in self))  # type: ignore[arg-type]  # the client's is never None

    @property
    def total(self) -> float | None:
        """All of it, None where a part is not known."""
        parts = [part for part in self if part is not None]
        return sum(parts) if len(parts) == len(self) else None


@dataclass(frozen=True, slots=True)
class Carried:
    """A round of charging and recording at once.

    Attributes:
        number: Charges.
        recorded_per_s: Charges over the time from the first call until all are in the ledger.
        drain_s: From the last answer until all are in the ledger.
        lag: Pairs of seconds since the start and the sync lag then, in milliseconds.
        cpu: CPU time of all processes from the first call until all are in the ledger.
    """

    number: int
    recorded_per_s: float
    drain_s: float
    lag: Sequence[tuple[float, float]]
    cpu: Cpu


class Weights(NamedTuple):
    """Bytes in Redis, each on average over many keys."""

    account: float
    idempotency_key: float
    journal_entry: float


@dataclass(slots=True)
class Readings:
    """Everything a run found.

    Attributes:
        contests: Readings by contest, one a round.
        carried: Rounds of charging and recording at once.
        weights: Rounds of weighing.
        sync_per_s: Rounds of a worker draining a backlog, charges a second.
        copy_per_s: Rounds of COPY of the same rows, charges a second.
        growth: Pairs of charges a second, with the few users and with so many, by number of users.
    """

    contests: defaultdict[Contest, list[Reading]] = field(
        default_factory=lambda: defaultdict[Contest, list[Reading]](list)
    )
    carried: list[Carried] = field(default_factory=list[Carried])
    weights: list[Weights] = field(default_factory=list[Weights])
    sync_per_s: list[float] = field(default_factory=list[float])
    copy_per_s: list[float] = field(default_factory=list[float])
    growth: defaultdict[int, list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict[int, list[tuple[float, float]]](list)
    )

    def per_s(self, contest: Contest) -> Spread | None:
        """Charges a second, None where it was not measured."""
        found = self.contests.get(contest)
        return Spread(tuple(reading.per_s for reading in found)) if found else None

    def latency_ms(self, contest: Contest, percent: float) -> Spread | None:
        """The latency at one of `PERCENTS`, None where it was not measured."""
        found = self.contests.get(contest)
        return Spread(tuple(reading.at(percent) for reading in found)) if found else None
