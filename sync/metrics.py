"""A worker's figures in Prometheus' text format: what it counted, and how the partitions are doing.

Counters begin at 0 with the worker. What is said of partitions is of all of them, whoever carries them,
so that one nobody carries is seen too; every worker says the same, and the maximum is to be taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from credits_fast.sync.tally import BATCH_SIZES

if TYPE_CHECKING:
    from credits_fast.checks.partition_states import PartitionState
    from credits_fast.sync.tally import Tally

__all__ = ["CONTENT_TYPE", "exposed"]

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_PREFIX: Final = "credits_fast"
_COUNTERS: Final = (
    ("entries_recorded", "Journal entries recorded in the ledger."),
    ("transactions_recorded", "Transactions recorded in the ledger."),
    ("batches_recorded", "Batches recorded: consecutive entries of one partition."),
    ("commits", "Commits, each with batches of one partition or of several."),
    ("dead_letters", "Items whose metadata could not be read, and that were kept as they came."),
    ("forks", "How often a journal did not continue the ledger."),
    ("repairs", "Partitions that had lost history and were repaired."),
    ("drift_adopted", "Transactions that a repair found in Redis only; the ledger has them now."),
    (
        "drift_restored",
        "Transactions that a repair found in the ledger only; Redis counts them again.",
    ),
    ("reversals", "Transactions under a key that was used again, undone."),
    ("stood_in", "Charges of committed transactions whose hold Redis had lost, made without it."),
    ("evictions", "Idle accounts that were dropped from Redis."),
    ("errors", "How often a server could not be reached or a partition was set aside."),
)
_MEMBERS: Final = {  # of a tally, where their names differ from the counters'
    "entries_recorded": "entries",
    "transactions_recorded": "transactions",
    "batches_recorded": "batches",
    "drift_adopted": "adopted",
    "drift_restored": "restored",
}


def exposed(
    tally: Tally,
    *,
    owned: int,
    set_aside: Mapping[int, str],
    states: Sequence[PartitionState] | None,
) -> bytes:
    """The page for a scraper.

    Args:
        tally: What the worker has done.
        owned: How many partitions it carries.
        set_aside: Those of them it cannot carry.
        states: How the partitions are doing, None where that could not be asked; then nothing is said
            of them, and `credits_fast_servers_answer` is 0.
    """
    registry = CollectorRegistry()
    registry.register(
        _Page([*_of_tally(tally), *_of_worker(owned, set_aside), *_of_partitions(states)])
    )
    return generate_latest(registry)


class _Page(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def _of_tally(tally: Tally) -> Iterator[Metric]:
    for name, what in _COUNTERS:
        value: int = getattr(tally, _MEMBERS.get(name, name))
        yield CounterMetricFamily(f"{_PREFIX}_{name}", what, value=value)
    refusals = CounterMetricFamily(
        f"{_PREFIX}_refusals_recorded", "Refusals in recorded entries.", labels=["code"]
    )
    for code, number in sorted(tally.refusals.items()):
        refusals.add_metric([code], number)
    yield refusals
    bounds = [*(f"{bound:.1f}" for bound in BATCH_SIZES), "+Inf"]
    yield HistogramMetricFamily(
        f"{_PREFIX}_batch_decisions",
        "Decisions in a recorded batch.",
        buckets=[*zip(bounds, accumulate(tally.batch_sizes), strict=True)],
        sum_value=tally.transactions + sum(tally.refusals.values()),
    )
    yield _gauge("failing", "Whether the last step failed for want of a server.", tally.is_failing)
    if tally.last_error_s:
        when = "When the last error was, in seconds since 1970."
        yield _gauge("last_error_timestamp_seconds", when, tally.last_error_s)


def _of_worker(owned: int, set_aside: Mapping[int, str]) -> Iterator[Metric]:
    yield _gauge("partitions_owned", "Partitions this worker carries.", owned)
    aside = "Partitions of this worker that it cannot carry."
    yield _gauge("partitions_set_aside", aside, len(set_aside))


def _of_partitions(states: Sequence[PartitionState] | None) -> Iterator[Metric]:
    answer = "Whether the database, and Redis for every partition, could be asked just now."
    whole = states is not None and all(state.state != "away" for state in states)
    yield _gauge("servers_answer", answer, whole)
    if states is None:
        return
    lags = {state.number: state.lag_ms for state in states}
    known = [lag for lag in lags.values() if lag is not None]
    if known:
        oldest = "Seconds since the oldest decision that is not in the ledger; 0 where none waits."
        yield _gauge("sync_lag_seconds", oldest, max(known) / 1_000)
    yield _by_partition(
        "partition_lag_seconds",
        "The same of each partition.",
        {number: None if lag is None else lag / 1_000 for number, lag in lags.items()},
    )
    yield _by_partition(
        "journal_entries",
        "Entries in a partition's journal, recorded ones that are retained included.",
        {state.number: state.journal_length for state in states},
    )
    yield _by_partition(
        "partition_open",
        "Whether charges go on in a partition.",
        {state.number: state.state == "open" for state in states},
    )
    yield _by_partition(
        "partition_leased",
        "Whether a worker owns a partition.",
        {state.number: state.is_owned for state in states},
    )


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", what, value=float(value))


def _by_partition(name: str, what: str, values: Mapping[int, float | None]) -> Metric:
    """A gauge with a value for each partition; what is not known is left out."""
    family = GaugeMetricFamily(f"{_PREFIX}_{name}", what, labels=["partition"])
    for number, value in values.items():
        if value is not None:
            family.add_metric([str(number)], float(value))
    return family
